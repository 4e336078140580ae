"""What can go wrong while a run trains, as the loop sees it."""

from pathlib import Path

from torch import Tensor

from lbtrain.data.stream import Stream
from lbtrain.engines.protocol import Engine
from lbtrain.faults import watchdog
from lbtrain.faults.finite import FiniteCheck
from lbtrain.faults.layers import SameLayers
from lbtrain.faults.stopping import StopRequest
from lbtrain.plan.batching import Phase
from lbtrain.plan.plan import Plan


class Faults:
    """Watches the steps of one rank. From here to `close`, a signal stops the run after a step.
    Collective.
    """

    def __init__(self, plan: Plan, stream: Stream, engine: Engine, run_dir: Path, *, skipped: int):
        self._finite = FiniteCheck(plan, stream, engine, run_dir, skipped=skipped)
        self._stop = StopRequest()
        if plan.zero_stage == 3:
            SameLayers(engine.module, self._in_layer)

    def at(self, step: int, doing: str) -> None:
        """Notes the last finished step and what is done now, for others to read if this rank is lost."""
        self._position = step, doing
        watchdog.at(step, doing)

    def _in_layer(self, name: str) -> None:
        step, doing = self._position
        watchdog.at(step, f"{doing}, layer {name}")

    def before_backward(self, loss: Tensor) -> None:
        self._finite.add(loss)

    def before_update(self, step: int, lr: float, start: int, phase: Phase) -> None:
        """The gradients of step number `step`, which starts at position `start`, are complete."""
        self._finite.close(step, lr, start, phase.split)

    def after_update(self, updated: bool, *, check_now: bool) -> bool:
        """Whether the run is to stop here, at the same step on every rank. Raises Diverged for a step that
        was not finite: at once where `check_now`, else a step or two later, so that no step waits for the
        device.
        """
        if not updated:
            self._finite.skipped()
        stopped = self._stop.agreed(self._finite.late())
        self._finite.check(self._stop.bad_step, now=check_now or stopped)
        return stopped

    def meet(self) -> None:
        """Returns when every rank has come here. Collective."""
        self._stop.meet()

    def close(self) -> None:
        self._stop.close()
