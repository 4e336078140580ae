"""AlexNet as the large-batch papers used it, with batch norm in two forms, and a reduced one for images of 32
x 32 pixels.

- `alexnet`: Krizhevsky et al. 2012 in the form of Caffe's bvlc_alexnet, which You et al. 2017 trained: local
  response norm after the first two convolutions, convolutions 2, 4 and 5 in two groups, dropout, the weights'
  and biases' initial values from there. At its 227 pixels a side it has 60,965,224 parameters. Biases have
  the learning rate of weights, as in You et al. 2017 (Caffe's own doubles it). It is made for pixels of 0 to
  255 less their mean (`data.augmentation=alexnet`): of inputs divided by their standard deviation too the
  local response norm takes nothing, and the first layer's gradient is a twentieth of that in You et al. 2017,
  table 2.
- `alexnet_bn`: that of You et al. 2017, as in the first author's models/alexnet_bn/train_val2.prototxt
  (github.com/borisgin/nvcaffe): no local response norm, four batch norms without scale and shift, each before
  one of the convolutions 2 to 5, and biases of 0.01 (0.1 in the two hidden layers). The norms in table 2 of
  the paper are those of these initial values. Made for pixels of 0 to 255 less their mean, divided by 256.
- `reduced_alexnet`: Masters & Luschi 2018, section 3.1: 5 x 5 and 3 x 3 convolutions of stride 1 and two
  hidden layers of 256 units. The pools lie where AlexNet has them, which the paper does not say.
  `batch_norm="conv"` puts one behind every convolution (their Figure 6), `"all"` behind the hidden layers too
  (Figure 5); no dropout.
"""

from collections.abc import Iterator
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class AlexNet(nn.Module):
    """(images, in_chans, height, width) -> (images, num_classes) scores. `hidden`: units of the two hidden
    layers.
    """

    def __init__(
        self, num_classes: int = 1000, in_chans: int = 3, batch_norm: bool = False, hidden: int = 4096
    ):
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 96, 11, stride=4), nn.ReLU(inplace=True),
            *_response_norm(batch_norm), nn.MaxPool2d(3, 2), *_batch_norm(96, batch_norm),
            nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True),
            *_response_norm(batch_norm), nn.MaxPool2d(3, 2), *_batch_norm(256, batch_norm),
            nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True), *_batch_norm(384, batch_norm),
            nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True), *_batch_norm(384, batch_norm),
            nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True),
            # from 13 x 13, at 227 pixels, the 3 x 3 pool of stride 2; other sizes are taken too
            nn.AdaptiveMaxPool2d(6),
        )  # fmt: skip
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(256 * 6 * 6, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5),
        )  # fmt: skip
        self.fc = nn.Linear(hidden, num_classes)
        self._initialise([0.01] * 5 + [0.1, 0.1, 0.01] if batch_norm else [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0])

    def _initialise(self, biases: list[float]) -> None:
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for number, (layer, bias) in enumerate(zip(layers, biases, strict=True), start=1):
            nn.init.normal_(layer.weight, std=0.005 if number in (6, 7) else 0.01)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.features(x)))


def _response_norm(batch_norm: bool) -> list[nn.Module]:
    # Caffe's alpha is divided by the five channels, as torch's is; its k is 1.
    return [] if batch_norm else [nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)]


def _batch_norm(channels: int, batch_norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=1e-4, affine=False)] if batch_norm else []


class ReducedAlexNet(nn.Module):
    """(images, in_chans, 32, 32) -> (images, num_classes) scores; `batch_norm`: none, conv or all. Other
    sizes from 16 pixels a side on.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, batch_norm: str = "none"):
        super().__init__()
        if batch_norm not in ("none", "conv", "all"):
            raise ValueError(f"batch_norm={batch_norm}: is one of none, conv, all")
        self.num_classes = num_classes
        self.features = nn.Sequential(
            *self._convolutions(in_chans, batch_norm != "none"), nn.AdaptiveMaxPool2d(3)
        )
        self.hidden = nn.Sequential(
            nn.Flatten(),
            *_dense(64 * 3 * 3, 256, batch_norm == "all"),
            *_dense(256, 256, batch_norm == "all"),
        )
        self.fc = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(
                    module.weight, nonlinearity="relu" if module is not self.fc else "linear"
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @staticmethod
    def _convolutions(in_chans: int, batch_norm: bool) -> Iterator[nn.Module]:
        channels = [in_chans, 16, 48, 96, 64, 64]
        for number in range(5):
            size = 5 if number == 0 else 3
            yield nn.Conv2d(
                channels[number], channels[number + 1], size, padding=size // 2, bias=not batch_norm
            )
            if batch_norm:
                yield nn.BatchNorm2d(channels[number + 1])
            yield nn.ReLU(inplace=True)
            if number < 2:
                yield nn.MaxPool2d(3, 2)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.features(x)))


def _dense(inputs: int, units: int, batch_norm: bool) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm1d(units)] if batch_norm else []
    return [nn.Linear(inputs, units, bias=not batch_norm), *norm, nn.ReLU(inplace=True)]


# timm looks for the configurations of a module under this name when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        "alexnet": {
            "num_classes": 1000,
            "input_size": (3, 227, 227),
            "first_conv": "features.0",
            "classifier": "fc",
        },
        "alexnet_bn": {
            "num_classes": 1000,
            "input_size": (3, 227, 227),
            "first_conv": "features.0",
            "classifier": "fc",
        },
        "reduced_alexnet": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "first_conv": "features.0",
            "classifier": "fc",
        },
    }
)


@register_model
def alexnet(pretrained: bool = False, **kwargs: Any) -> AlexNet:
    """For 227 x 227 pixels, with local response normalisation."""
    return build_model_with_cfg(AlexNet, "alexnet", pretrained, **kwargs)


@register_model
def alexnet_bn(pretrained: bool = False, **kwargs: Any) -> AlexNet:
    """For 227 x 227 pixels, with batch norm before convolutions 2 to 5 (You et al. 2017)."""
    return build_model_with_cfg(AlexNet, "alexnet_bn", pretrained, batch_norm=True, **kwargs)


@register_model
def reduced_alexnet(pretrained: bool = False, **kwargs: Any) -> ReducedAlexNet:
    """For 32 x 32 pixels (Masters & Luschi 2018)."""
    return build_model_with_cfg(ReducedAlexNet, "reduced_alexnet", pretrained, **kwargs)
