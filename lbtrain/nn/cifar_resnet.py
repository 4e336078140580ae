"""Residual networks of the CIFAR kind: 6n + 2 layers, three stages of 16, 32 and 64 channels, shortcuts without parameters.

Source: He et al. 2016, "Deep Residual Learning", section 4.2 (option A shortcuts); the last gamma of each block starts at 0
(Goyal et al. 2017, section 5.1). The networks serve any small image, the 8 x 8 digits included.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x), inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        """Every stride-th pixel, and zeros for the channels that are new."""
        if self.stride == 1 and not self.new_channels:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class CifarResNet(nn.Module):
    """(images, in_chans, height, width) -> (images, num_classes) scores."""

    def __init__(self, blocks: int, num_classes: int = 10, in_chans: int = 3, zero_init_last: bool = True):
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        self.stages = nn.Sequential(*[self._stage(*pair, blocks) for pair in itertools.pairwise(widths)])
        self.fc = nn.Linear(64, num_classes)
        self._initialise(zero_init_last)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride=channels // in_channels)
        return nn.Sequential(first, *[BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)])

    def _initialise(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and zero_init_last:
                nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.stages(x), 1), 1))


# timm looks for the configurations of a module under this name when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        f"cifar_resnet{depth}": {"num_classes": 10, "input_size": (3, 32, 32), "pool_size": None, "first_conv": "conv1", "classifier": "fc"}
        for depth in (8, 20, 32, 44)
    }
)


def _create(name: str, blocks: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, name, pretrained, blocks=blocks, **kwargs)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create("cifar_resnet8", 1, pretrained, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create("cifar_resnet20", 3, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create("cifar_resnet32", 5, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return _create("cifar_resnet44", 7, pretrained, **kwargs)
