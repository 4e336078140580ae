"""Wide residual networks for 32 x 32 images: norm and activation before each convolution, three stages of
16k, 32k and 64k channels.

Source: Zagoruyko & Komodakis 2016, "Wide Residual Networks", table 1 (basic block, no dropout); Smith et al.
2018 train the one of depth 16 and width 4. Where a block changes stride or channels, its shortcut is a 1 x 1
convolution of the activated input.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: (images, in_channels, h, w) -> (images, channels, h / stride, w
    / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            if in_channels != channels or stride > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """(images, in_chans, height, width) -> (images, num_classes) scores. Depth is 6 * blocks + 4."""

    def __init__(self, blocks: int, width: int, num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stages = nn.Sequential(
            *[
                WideBlock(
                    widths[stage] if block == 0 else widths[stage + 1],
                    widths[stage + 1],
                    2 if stage and block == 0 else 1,
                )
                for stage in range(3)
                for block in range(blocks)
            ]
        )
        self.bn = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stages(self.conv1(x))), inplace=True)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


# timm looks for the configurations of a module under this name when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        "wide_resnet16_4": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def wide_resnet16_4(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Depth 16, four times as wide as a CIFAR residual network."""
    return build_model_with_cfg(WideResNet, "wide_resnet16_4", pretrained, blocks=2, width=4, **kwargs)
