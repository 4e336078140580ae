"""The loss scale of fp16 under ZeRO, where the libraries' own goes wrong (see the engines)."""

from typing import Any

NO_SCALING = {"loss_scale": 1.0, "loss_scale_steps": 0}
"""What the state of an engine holds of it where the precision needs none."""


class LossScale:
    """Dynamic loss scaling by the rule of torch's GradScaler: half after an overflow, twice after 2,000 steps
    without one.
    """

    GROWTH_INTERVAL = 2000

    def __init__(self) -> None:
        self.scale = 2.0**16
        self._steps = 0

    def move(self, *, overflowed: bool) -> None:
        """After a step, the same on all ranks."""
        self._steps = 0 if overflowed else self._steps + 1
        if overflowed:
            self.scale /= 2
        elif self._steps >= self.GROWTH_INTERVAL:
            self.scale, self._steps = self.scale * 2, 0

    def state(self) -> dict[str, Any]:
        """What the state of an engine holds of it."""
        return {"loss_scale": self.scale, "loss_scale_steps": self._steps}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.scale, self._steps = state["loss_scale"], state["loss_scale_steps"]
