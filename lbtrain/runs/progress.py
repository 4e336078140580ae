"""The position of a run, which schedules, sample order and checkpoints are functions of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands: all that has to be remembered besides the engine's state."""

    examples: int = 0
    step: int = 0
    skipped_steps: int = 0

    def after(self, batch_size: int, *, updated: bool) -> "Progress":
        """After one more step, whose update was applied or skipped."""
        return Progress(self.examples + batch_size, self.step + 1, self.skipped_steps + (not updated))
