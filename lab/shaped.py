"""The sleeping recipe on hosts that change their own sending rate as the run goes on: one launch sees every
rate, several times.

Every rank counts its steps and limits its host at the same ones.
"""

import os
import subprocess
from typing import Any

import timm
from timm.models import register_model
from torch import Tensor

from lab import sleeping
from lbtrain import Recipe, main

RATES = ("1gbit", "500mbit", "250mbit")
TURNS = 3
STEPS_A_TURN, SETTLING_STEPS = 5, 2
"""Of each turn's steps the first two, in which the rate changes and the connections find it, are left out."""


def shape(rate: str) -> None:
    tc = f"tc qdisc replace dev eth0 root tbf rate {rate} burst 256kb limit 4mb"
    subprocess.run(tc.split(), check=True)


class ShapedNet(sleeping.SleepingNet):
    def __init__(self, num_classes: int, in_chans: int):
        super().__init__(num_classes, in_chans)
        self._steps = 0

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "meta":
            turn, step = divmod(self._steps, STEPS_A_TURN)
            # Only a host made for this may be slowed down (lab/hosts.py sets the variable).
            if step == 0 and os.environ.get("LBTRAIN_NAMESPACE_HOST"):
                shape(RATES[turn % len(RATES)])
            self._steps += 1
        return super().forward(images)


if not timm.is_model("shaped_net"):

    @register_model
    def shaped_net(
        pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **_: Any
    ) -> ShapedNet:
        return ShapedNet(num_classes, in_chans)


recipe: Recipe = sleeping.recipe.vary(model=dict(name="shaped_net"))

if __name__ == "__main__":
    main(recipe)
