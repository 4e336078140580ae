"""The run that tests.faults.soak disturbs: digits, with a pause in each step."""

import os
import time
from typing import Any

from lbtrain import Recipe, main

_PAUSE = float(os.environ.get("SOAK_PAUSE", "0"))


def _slow_down() -> None:
    from lbtrain.tasks.classification import Classification

    loss = Classification.loss

    def late(*args: Any) -> Any:
        time.sleep(_PAUSE)
        return loss(*args)

    Classification.loss = late  # type: ignore[method-assign]


if __name__ == "__main__":
    if _PAUSE:
        _slow_down()
    main(Recipe())
