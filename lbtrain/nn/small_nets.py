"""The small networks in which Keskar et al. 2017 and Hoffer et al. 2017 compare large with small batches.

- `keskar_f1`: five hidden layers of 512 units with batch norm, as models/mnist_f1.py of
  github.com/eladhoffer/bigBatch has Keskar's F1. `side` is the width of the images: 28 for MNIST.
- `keskar_f2`: seven such layers. Keskar's own code has C1 to C4 only, and the text of appendix B.2 was not at
  hand: the number of layers is from memory. The paper's F2 is for speech (TIMIT, which is licensed), here it
  takes any images.
- `keskar_c1`, `keskar_c2`: shallownet and deepnet of network_zoo.py in keskarnitish/large-batch-training
  (AlexNet and VGG made smaller, with batch norm behind every layer and dropout). With 100 classes they are C3
  and C4. Theano shifts C2's pooling windows by a pixel; here they are not shifted.
- `hoffer_c1`: models/cifar_shallow.py of bigBatch, which pools before it normalises.

Keskar's networks have the initial weights of Keras (Glorot, uniform; biases 0) and its batch norm (eps 1e-3),
`glorot=False` those of torch, as Hoffer's F1 (models/mnist_f1.py) and `hoffer_c1` have them.
"""

import itertools
from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class LayeredNet(nn.Module):
    """(images, in_chans, side, side) -> (images, num_classes) scores: the layers of `form`, then a
    classifier.
    """

    def __init__(
        self, form: str, num_classes: int = 10, in_chans: int = 3, side: int = 28, glorot: bool = True
    ):
        super().__init__()
        self.num_classes = num_classes
        forms: dict[str, Callable[[], tuple[list[nn.Module], int]]] = {
            "f1": lambda: _dense(5, in_chans * side**2),
            "f2": lambda: _dense(7, in_chans * side**2),
            "c1": lambda: _shallow(in_chans),
            "c2": lambda: _deep(in_chans),
            "hoffer_c1": lambda: _shallow_pooled_first(in_chans),
        }
        layers, width = forms[form]()
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(width, num_classes)
        if glorot:
            self.apply(_as_keras)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x))


def _as_keras(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.eps = 1e-3


def _dense(hidden: int, inputs: int) -> tuple[list[nn.Module], int]:
    widths = [inputs] + [512] * hidden
    parts: list[list[nn.Module]] = [
        [nn.Linear(*pair), nn.BatchNorm1d(512), nn.ReLU()] for pair in itertools.pairwise(widths)
    ]
    return [nn.Flatten(), *itertools.chain.from_iterable(parts)], 512


def _convolution(channels: int, into: int, size: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, into, size, padding=size // 2), nn.BatchNorm2d(into), nn.ReLU()]


def _hidden(inputs: int, units: int, bias: bool = True) -> list[nn.Module]:
    return [nn.Linear(inputs, units, bias=bias), nn.BatchNorm1d(units), nn.ReLU(), nn.Dropout(0.5)]


def _shallow(in_chans: int) -> tuple[list[nn.Module], int]:
    first = [*_convolution(in_chans, 64, 5), nn.MaxPool2d(3, 2, padding=1)]
    second = [*_convolution(64, 64, 5), nn.MaxPool2d(3, 2, padding=1), nn.AdaptiveMaxPool2d(8), nn.Flatten()]
    return [*first, *second, *_hidden(64 * 8 * 8, 384), *_hidden(384, 192)], 192


def _shallow_pooled_first(in_chans: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    for channels in (in_chans, 64):
        convolution = nn.Conv2d(channels, 64, 5, padding=2, bias=False)
        layers += [convolution, nn.MaxPool2d(3, 2), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.AdaptiveMaxPool2d(7), nn.Flatten()]
    return [*layers, *_hidden(64 * 7 * 7, 384, bias=False), *_hidden(384, 192, bias=False)], 192


def _deep(in_chans: int) -> tuple[list[nn.Module], int]:
    """Dropout stands behind every convolution of a stage but the last."""
    layers: list[nn.Module] = []
    for number, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        for place in range(depth):
            layers += _convolution(in_chans, width, 3)
            layers += [nn.Dropout(0.4 if number else 0.3)] if place < depth - 1 else [nn.MaxPool2d(2)]
            in_chans = width
    return [*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.5), *_hidden(512, 512)], 512


def _configuration(channels: int, side: int) -> dict[str, Any]:
    inputs = {"input_size": (channels, side, side), "num_classes": 10, "pool_size": None}
    return {**inputs, "first_conv": None, "classifier": "fc"}


# timm looks for the configurations of a module under this name when a model is registered.
default_cfgs = generate_default_cfgs(
    {
        **{name: _configuration(1, 28) for name in ("keskar_f1", "keskar_f2")},
        **{name: _configuration(3, 32) for name in ("keskar_c1", "keskar_c2", "hoffer_c1")},
    }
)


def _create(name: str, pretrained: bool, arguments: dict[str, Any]) -> LayeredNet:
    form = name.removeprefix("keskar_")
    return build_model_with_cfg(LayeredNet, name, pretrained, form=form, **arguments)


@register_model
def keskar_f1(pretrained: bool = False, **kwargs: Any) -> LayeredNet:
    """Five hidden layers of 512 units."""
    return _create("keskar_f1", pretrained, kwargs)


@register_model
def keskar_f2(pretrained: bool = False, **kwargs: Any) -> LayeredNet:
    """Seven hidden layers of 512 units."""
    return _create("keskar_f2", pretrained, kwargs)


@register_model
def keskar_c1(pretrained: bool = False, **kwargs: Any) -> LayeredNet:
    """Two convolutions and two hidden layers."""
    return _create("keskar_c1", pretrained, kwargs)


@register_model
def keskar_c2(pretrained: bool = False, **kwargs: Any) -> LayeredNet:
    """Thirteen convolutions and a hidden layer."""
    return _create("keskar_c2", pretrained, kwargs)


@register_model
def hoffer_c1(pretrained: bool = False, **kwargs: Any) -> LayeredNet:
    """Two convolutions and two hidden layers, pooled before they are normalised."""
    return _create("hoffer_c1", pretrained, kwargs | {"glorot": False})
