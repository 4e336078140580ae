"""The loss scale of fp16 under ZeRO, where the libraries' own goes wrong (see the engines)."""


class LossScale:
    """Dynamic loss scaling by the rule of torch's GradScaler: half after an overflow, twice after 2,000 steps without one."""

    GROWTH_INTERVAL = 2000

    def __init__(self) -> None:
        self.scale = 2.0**16
        self._steps_without_overflow = 0

    def move(self, *, overflowed: bool) -> None:
        """After a step, the same on all ranks."""
        self._steps_without_overflow = 0 if overflowed else self._steps_without_overflow + 1
        if overflowed:
            self.scale /= 2
        elif self._steps_without_overflow % self.GROWTH_INTERVAL == 0:
            self.scale *= 2
