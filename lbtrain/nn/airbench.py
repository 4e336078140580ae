"""The small network that reaches 94 % on CIFAR-10 in ten epochs: airbench94.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3, and legacy/airbench94.py of
github.com/KellerJordan/cifar10-airbench. A fixed first layer whitens 2 x 2 patches; three groups of two
convolutions follow, which start as the identity where they can; norms have a shift and no scale.

There the shifts of the norms have 64 times the rate of the weights, and the same decay. Here each is eight
times a parameter of that rate, which under SGD is the same step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

SHIFT_SCALE = 8.0
"""The square root of 64, the factor of the rate: a parameter's gradient and its step both carry it."""
WHITENING_EPS = 5e-4
PATCHES = (
    (996847, 924940, 908839, 856632, 908020, 840032, 822559, 773687, 781019, 722555, 707018, 665358),
    (924940, 996109, 857390, 908075, 840136, 907274, 774443, 821785, 722610, 780268, 665999, 706243),
    (908839, 857390, 987655, 915803, 826448, 777956, 897758, 829826, 708225, 666924, 769743, 711339),
    (856632, 908075, 915803, 986910, 777379, 825673, 829931, 897006, 666365, 707453, 711396, 768988),
    (908020, 840136, 826448, 777379, 998104, 925925, 909012, 856867, 906380, 843590, 827517, 782359),
    (840032, 907274, 777956, 825673, 925925, 997304, 857474, 908180, 843532, 905578, 782841, 826685),
    (822559, 774443, 897758, 829931, 909012, 857474, 985545, 913438, 825145, 780535, 891470, 828759),
    (773687, 821785, 829826, 897006, 856867, 908180, 913438, 984741, 779932, 824317, 828702, 890666),
    (781019, 722610, 708225, 666365, 906380, 843532, 825145, 779932, 999037, 938110, 919496, 875496),
    (722555, 780268, 666924, 707453, 843590, 905578, 780535, 824317, 938110, 998152, 876033, 918586),
    (707018, 665999, 769743, 711396, 827517, 782841, 891470, 828702, 919496, 876033, 981076, 920250),
    (665358, 706243, 711339, 768988, 782359, 826685, 828759, 890666, 875496, 918586, 920250, 980192),
)
"""Mean products of two values of a 2 x 2 patch (channel, row, column) of CIFAR-10's training images, in
millionths: over all 48,050,000 patches, each channel normalised by the data set's mean and deviation.
"""


def whitening_filters() -> Tensor:
    """(24, 3, 2, 2): the eigenvectors of PATCHES over the root of their eigenvalues, then the same
    negated.
    """
    values, vectors = torch.linalg.eigh(torch.tensor(PATCHES, dtype=torch.float64, device="cpu") / 1e6)
    filters = (vectors / (values + WHITENING_EPS).sqrt()).T.flip(0)
    filters = filters * filters[:, :1].sign()  # an eigenvector's sign is arbitrary
    return torch.cat([filters, -filters]).view(-1, 3, 2, 2).float()


class Shift(nn.Module):
    """Adds `scale` times a learned number to each channel: (images, channels, h, w), the same shape."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.scale * self.bias).view(1, -1, 1, 1)


class ConvGroup(nn.Module):
    """(images, in_channels, h, w) -> (images, channels, h // 2, w // 2)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv1, self.norm1 = _convolution(in_channels, channels), _norm(channels)
        self.conv2, self.norm2 = _convolution(channels, channels), _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _convolution(in_channels: int, channels: int) -> nn.Conv2d:
    """Its first `in_channels` filters copy their channel."""
    layer = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.detach()[:in_channels])
    return layer


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-12, affine=False), Shift(channels, SHIFT_SCALE))


class Airbench(nn.Module):
    """(images, 3, height, width) -> (images, num_classes) scores; 17 pixels a side at least."""

    whitening: Tensor

    def __init__(self, widths: tuple[int, ...] = (64, 256, 256), num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        if in_chans != 3:
            raise ValueError(f"the whitening layer is made for 3 channels, not {in_chans}")
        self.num_classes = num_classes
        self.register_buffer("whitening", whitening_filters())
        self.whitening_bias = nn.Parameter(torch.zeros(24))
        self.groups = nn.Sequential(*map(ConvGroup, (24, *widths[:-1]), widths))
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.groups(F.gelu(F.conv2d(x, self.whitening, self.whitening_bias)))
        return self.fc(torch.flatten(F.adaptive_max_pool2d(x, 1), 1)) / 9


# timm looks for the configurations of a module under this name when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        "airbench94": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": None,
            "first_conv": None,
            "classifier": "fc",
        }
    }
)


@register_model
def airbench94(pretrained: bool = False, **kwargs: Any) -> Airbench:
    """Widths 64, 256 and 256."""
    return build_model_with_cfg(Airbench, "airbench94", pretrained, **kwargs)
