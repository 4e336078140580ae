"""A recipe whose computing is sleeping: hosts that share two processor cores then scale as if each had an
accelerator of its own.

Gradients (50 MB), buckets, exchange and network are real. Only for measuring how well scaling is predicted.
"""

import time
from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from lbtrain import Recipe, main

NUM_BLOCKS, BLOCK_VALUES = 24, 520_000
FORWARD_S, BACKWARD_S = 0.02, 0.04


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        if hidden.device.type != "meta":
            time.sleep(FORWARD_S)
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(BACKWARD_S)
        return gradient, torch.zeros_like(ctx.weight)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(BLOCK_VALUES))

    def forward(self, hidden: Tensor) -> Tensor:
        return _Sleep.apply(hidden, self.weight)


class SleepingNet(nn.Module):
    def __init__(self, num_classes: int, in_chans: int):
        super().__init__()
        self.blocks = nn.Sequential(*[_Block() for _ in range(NUM_BLOCKS)])
        self.head = nn.Linear(in_chans, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images.mean(dim=(2, 3)).requires_grad_()))


if not timm.is_model("sleeping_net"):

    @register_model
    def sleeping_net(
        pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **_: Any
    ) -> SleepingNet:
        return SleepingNet(num_classes, in_chans)


recipe = Recipe().vary(
    batch_size=8,
    bn_batch_size=8,
    duration="5ep",
    model=dict(name="sleeping_net"),
    data=dict(name="synthetic", image_size=16),
    schedule=dict(base_lr=0.0, base_batch_size=8, warmup="0ep"),
)

if __name__ == "__main__":
    main(recipe)
