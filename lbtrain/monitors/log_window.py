"""What is averaged between one logged row and the next."""

import contextlib
import time
from collections.abc import Iterator

import torch

from lbtrain.data.loading import replaced_images
from lbtrain.engines.protocol import Engine
from lbtrain.monitors.protocol import MicroStep, Monitor, StepResult
from lbtrain.monitors.stragglers import OwnTime
from lbtrain.optim import trust_summary
from lbtrain.plan.plan import Plan
from lbtrain.runs.rows import TrainRow


class LogWindow(Monitor):
    """Sums since the last logged row, or since the restart: no checkpoint holds them.

    The loss stays on the device until the next row, so that no step waits for it.
    """

    def __init__(self, plan: Plan, engine: Engine, optimizer: torch.optim.Optimizer):
        self.plan, self.engine, self.optimizer = plan, engine, optimizer
        self.own_time = OwnTime(engine.device)
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.images, self.waited = 0, 0.0
        self.own_time.restart()
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here is time without data."""
        self.own_time.start()
        entered = time.perf_counter()
        yield
        self.waited += time.perf_counter() - entered

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here is not training time."""
        entered = time.perf_counter()
        yield
        self.started += time.perf_counter() - entered

    def before_backward(self, seen: MicroStep) -> None:
        """Losses are means over a micro-batch. Weighted by its images, a row that spans a change of the batch
        is right.
        """
        self.own_time.stop()
        images = seen.phase.split.micro_batch_size
        losses = seen.losses
        error = {} if losses.error is None else {"train_error": losses.error}
        for name, value in {"loss": losses.total, **losses.parts, **error}.items():
            self.sums[name] = value.detach() * images + self.sums.get(name, 0)
        self.images += images

    def at_log(self, done: StepResult) -> Iterator[TrainRow]:
        """The averages over the window, over all ranks; starts the next window. Collective."""
        progress, trust = done.progress, trust_summary(self.optimizer)
        means, own_seconds = self._over_all_ranks()
        seconds = time.perf_counter() - self.started
        slowest = self.own_time.slowest(own_seconds)
        row = TrainRow(
            step=progress.step,
            examples=progress.examples,
            epoch=progress.examples / self.plan.train_examples,
            batch_size=done.phase.batch_size,
            lr=done.lr,
            loss=means.pop("loss"),
            train_error=means.pop("train_error", None),
            images_per_sec=self.images * self.plan.world_size / seconds,
            data_wait=self.waited / seconds,
            slowest_rank=slowest.rank if slowest else None,
            slowest_host=slowest.host if slowest else None,
            rank_wait=slowest.wait / seconds if slowest else None,
            averaged_images=self.images * self.plan.world_size,
            skipped_steps=progress.skipped_steps,
            replaced_images=replaced_over_ranks(self.engine),
            trust_min=trust and trust.min,
            trust_median=trust and trust.median,
            trust_max=trust and trust.max,
            parts=means,
        )
        self._restart()
        yield row

    def _over_all_ranks(self) -> tuple[dict[str, float], list[float]]:
        """Means of the loss, of its parts and of the error, and each rank's own seconds. Collective, in one
        exchange.
        """
        sums, world = torch.stack(list(self.sums.values())), self.plan.world_size
        own = self.own_time.for_rank(self.engine.rank, world)
        mean = self.engine.mean(torch.cat([sums, own.to(sums.dtype) * world]))
        means = (mean[: len(sums)] / self.images).tolist()
        return dict(zip(self.sums, means, strict=True)), mean[len(sums) :].tolist()


def replaced_over_ranks(engine: Engine) -> int:
    """How many broken images all ranks have replaced since this was last asked. Collective."""
    own = torch.tensor(float(replaced_images.take()), device=engine.device)
    return round(float(engine.mean(own)) * engine.world_size)
