"""A recipe whose rank 1 has more to do in every step than the others, as a rank with larger images has."""

import os
import time
from typing import Any

import timm
from timm.models import register_model
from torch import Tensor, nn

from lbtrain import Recipe, main

USUAL_S, SLOW_S = 0.1, 0.3  # long beside what a busy machine adds


class UnevenNet(nn.Module):
    def __init__(self, num_classes: int, in_chans: int):
        super().__init__()
        self.head = nn.Linear(in_chans, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "meta":
            time.sleep(SLOW_S if os.environ.get("RANK") == "1" else USUAL_S)
        return self.head(images.mean(dim=(2, 3)))


if not timm.is_model("uneven_net"):

    @register_model
    def uneven_net(
        pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **_: Any
    ) -> UnevenNet:
        return UnevenNet(num_classes, in_chans)


recipe = Recipe().vary(
    batch_size=8,
    bn_batch_size=4,
    duration="5ep",
    model=dict(name="uneven_net"),
    data=dict(name="synthetic", image_size=16),
    schedule=dict(base_lr=0.0, base_batch_size=8, warmup="0ep"),
)

if __name__ == "__main__":
    main(recipe)
