"""Residual networks of the CIFAR kind: 6n + 2 layers, three stages of 16, 32 and 64 channels, shortcuts
without parameters.

Source: He et al. 2016, "Deep Residual Learning", section 4.2 (option A shortcuts; `projection=True` is option
B, a 1 x 1 convolution with batch norm, as in the code of Hoffer et al. 2017 and Yao et al. 2018); the last
gamma of each block starts at 0 (Goyal et al. 2017, section 5.1). The networks serve any small image, the
8 x 8 digits included. `batch_norm=False` leaves batch norm out and gives the convolutions biases (Masters &
Luschi 2018, section 3.2).
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: (images, in_channels, h, w) -> (images, channels, h / stride, w
    / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, batch_norm: bool, projection: bool):
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=not batch_norm)
        self.bn1 = _norm(channels, batch_norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=not batch_norm)
        self.bn2 = _norm(channels, batch_norm)
        self.project: nn.Module | None = None
        if projection and self.new_channels:
            convolution = nn.Conv2d(in_channels, channels, 1, stride, bias=not batch_norm)
            self.project = nn.Sequential(convolution, _norm(channels, batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x), inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        """Every stride-th pixel, and zeros for the channels that are new; or a projection."""
        if self.project is not None:
            return self.project(x)
        if self.stride == 1 and not self.new_channels:
            return x
        # A window of one pixel takes what a slice would. The gradient of a slice is contiguous: beside
        # channels-last activations, the next operations of the backward pass take ten times as long.
        return F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.new_channels))


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


class CifarResNet(nn.Module):
    """(images, in_chans, height, width) -> (images, num_classes) scores."""

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        in_chans: int = 3,
        zero_init_last: bool = True,
        batch_norm: bool = True,
        projection: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=not batch_norm)
        self.bn1 = _norm(16, batch_norm)
        widths = [16, 16, 32, 64]
        self.stages = nn.Sequential(
            *[self._stage(*pair, blocks, batch_norm, projection) for pair in itertools.pairwise(widths)]
        )
        self.fc = nn.Linear(64, num_classes)
        self._initialise(zero_init_last)

    @staticmethod
    def _stage(
        in_channels: int, channels: int, blocks: int, batch_norm: bool, projection: bool
    ) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, channels // in_channels, batch_norm, projection)
        return nn.Sequential(
            first, *[BasicBlock(channels, channels, 1, batch_norm, projection) for _ in range(blocks - 1)]
        )

    def _initialise(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, BasicBlock) and isinstance(module.bn2, nn.BatchNorm2d) and zero_init_last:
                nn.init.zeros_(module.bn2.weight)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.stages(x), 1), 1))


# timm looks for the configurations of a module under this name when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        f"cifar_resnet{depth}": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for depth in (8, 20, 32, 44)
    }
)


def _create(name: str, blocks: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, name, pretrained, blocks=blocks, **kwargs)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """One block a stage."""
    return _create("cifar_resnet8", 1, pretrained, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Three blocks a stage."""
    return _create("cifar_resnet20", 3, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Five blocks a stage."""
    return _create("cifar_resnet32", 5, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Seven blocks a stage."""
    return _create("cifar_resnet44", 7, pretrained, **kwargs)
