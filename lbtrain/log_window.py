"""What is averaged between one logged row and the next."""

import contextlib
import time
from collections.abc import Iterator

import torch

from lbtrain.checkpoint import Progress
from lbtrain.cut import Phase
from lbtrain.data.loading import replaced_images
from lbtrain.engines.protocol import Engine
from lbtrain.optim import TrustSummary
from lbtrain.plan import Plan
from lbtrain.records import TrainRow


class LogWindow:
    """Sums since the last logged row. The loss stays on the device until then, so that no step waits for it."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.images, self.waited = 0, 0.0
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is time without data."""
        entered = time.perf_counter()
        yield
        self.waited += time.perf_counter() - entered

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is not training time."""
        entered = time.perf_counter()
        yield
        self.started += time.perf_counter() - entered

    def add(self, loss: torch.Tensor, parts: dict[str, torch.Tensor], images: int) -> None:
        """Means over the images of a micro-batch. Weighted by them, a row that spans a change of the batch is right."""
        for name, value in {"loss": loss, **parts}.items():
            self.sums[name] = value.detach() * images + self.sums.get(name, 0)
        self.images += images

    def row(self, plan: Plan, progress: Progress, phase: Phase, lr: float, trust: TrustSummary | None) -> TrainRow:
        """The averages since the last row, over all ranks; starts the next window. Collective."""
        loss, *parts = (self.engine.mean(torch.stack(list(self.sums.values()))) / self.images).tolist()
        seconds = time.perf_counter() - self.started
        row = TrainRow(
            step=progress.step,
            examples=progress.examples,
            epoch=progress.examples / plan.train_examples,
            batch_size=phase.batch_size,
            lr=lr,
            loss=loss,
            images_per_sec=self.images * plan.world_size / seconds,
            data_wait=self.waited / seconds,
            skipped_steps=progress.skipped_steps,
            replaced_images=replaced_over_ranks(self.engine),
            trust_min=trust and trust.min,
            trust_median=trust and trust.median,
            trust_max=trust and trust.max,
            parts=dict(zip(list(self.sums)[1:], parts, strict=True)),
        )
        self._restart()
        return row


def replaced_over_ranks(engine: Engine) -> int:
    """How many broken images all ranks have replaced since this was last asked. Collective."""
    own = torch.tensor(float(replaced_images.take()), device=engine.device)
    return round(float(engine.mean(own)) * engine.world_size)
