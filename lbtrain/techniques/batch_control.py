"""Who decides how large the next step's batch is: the plan, or something that looks at the model while it
trains.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from lbtrain.plan.batching import Phase
from lbtrain.plan.plan import Plan
from lbtrain.runs.progress import Progress


class BatchControl(Protocol):
    def phase(self, progress: Progress) -> Phase:
        """The phase of the step that follows `progress`. Asked after every step and after a restart; the same
        answer if asked again. Collective.
        """

    def adapted(self, batch: Any, phase: Phase, first: int) -> Any:
        """A micro-batch, of which position `first` is the first example, as it is to be trained on."""

    def state(self) -> dict[str, Any]:
        """What has to be remembered over a restart."""

    def load(self, state: Mapping[str, Any]) -> None: ...


class PlannedBatches:
    """The phases of the plan: a function of the position, with nothing to remember."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def phase(self, progress: Progress) -> Phase:
        return self.plan.phase(progress.examples)

    def adapted(self, batch: Any, phase: Phase, first: int) -> Any:
        return batch

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass
