"""Small models as people have them: stages that are frozen, parameters that no loss reads, several outputs.
Importing this module registers them with timm.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from timm.models import register_model
from torch import Tensor, nn


class Small(nn.Module):
    """Two stages with batch norm and a head."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1, **_: Any):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def get_classifier(self) -> nn.Linear:
        return self.head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


class Dropping(Small):
    """With dropout before the head."""

    def forward(self, x: Tensor) -> Any:
        features = self.stage(self.stem(x)).mean((2, 3))
        return self.head(nn.functional.dropout(features, 0.5, self.training))


class FrozenStem(Small):
    """Its first batch norm stays in eval mode in training."""

    frozen = ("stem",)

    def train(self, mode: bool = True) -> "FrozenStem":
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self


class FrozenStage(FrozenStem):
    frozen = ("stage",)


class Unread(Small):
    """Two layers of which the scores know nothing."""

    def __init__(self, **args: Any):
        super().__init__(**args)
        self.extra = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(8))


class SometimesRead(Small):
    """A layer that the first forward pass calls and the others do not."""

    def __init__(self, **args: Any):
        super().__init__(**args)
        self.extra = nn.Linear(8, self.num_classes)
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        features = self.stage(self.stem(x)).mean((2, 3))
        return self.head(features) + (self.extra(features) if self.calls == 1 else 0)


class ReadLater(Small):
    """A parameter of which the scores know nothing but its value, until the third pass in training."""

    def __init__(self, **args: Any):
        super().__init__(**args)
        self.scale = nn.Parameter(torch.ones(8))
        self.gate = nn.LayerNorm(8)
        self.calls, self.first = 0, 3

    def forward(self, x: Tensor) -> Any:
        self.calls += self.training
        features = self.stage(self.stem(x)).mean((2, 3)) + 0 * self.gate(self.head.weight).mean().detach()
        return self.head(features * (self.scale if self.calls >= self.first else self.scale.detach()))


class NeverRead(ReadLater):
    def __init__(self, **args: Any):
        super().__init__(**args)
        self.first = 1000


class ReadOnRankZero(Small):
    """A layer that rank 0 alone calls, as a branch on its own images would."""

    def __init__(self, **args: Any):
        super().__init__(**args)
        self.extra = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x)
        other = dist.is_initialized() and dist.get_rank() > 0 and x.device.type != "meta"
        return self.head(self.stage(features if other else self.extra(features)).mean((2, 3)))


class OrderOnRankOne(Small):
    """Rank 1 calls two equal layers in another order, from the third pass in training on."""

    def __init__(self, **args: Any):
        super().__init__(**args)
        self.one, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += self.training
        swapped = self.calls > 2 and dist.is_initialized() and dist.get_rank() == 1
        first, second = (self.other, self.one) if swapped else (self.one, self.other)
        return self.head(self.stage(second(first(self.stem(x)))).mean((2, 3)))


class Clamping(Small):
    """Between bounds at infinity until somebody calibrates them, as Gemma 4's layers."""

    def __init__(self, **args: Any):
        super().__init__(**args)
        self.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf]))

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).clamp(*self.bounds)


class TupleOutput(Small):
    def forward(self, x: Tensor) -> Any:
        scores = super().forward(x)
        return (scores, scores) if self.training else scores


class DictOutput(Small):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


class MapOutput(Small):
    def forward(self, x: Tensor) -> Any:
        return self.stage(self.stem(x))


def compiled(**args: Any) -> nn.Module:
    """As one who compiles the model himself would register it."""
    return torch.compile(Small(**args))


def _register(name: str, kind: Callable[..., nn.Module]) -> None:
    def create(pretrained: bool = False, **args: Any) -> nn.Module:
        args.pop("pretrained_cfg", None)
        return kind(**args)

    create.__name__, create.__module__ = name, __name__
    register_model(create)


for _name, _kind in {
    "odd_small": Small,
    "odd_dropping": Dropping,
    "odd_frozen_stem": FrozenStem,
    "odd_frozen_stage": FrozenStage,
    "odd_unread": Unread,
    "odd_sometimes_read": SometimesRead,
    "odd_read_later": ReadLater,
    "odd_never_read": NeverRead,
    "odd_read_on_rank_zero": ReadOnRankZero,
    "odd_order_on_rank_one": OrderOnRankOne,
    "odd_clamping": Clamping,
    "odd_tuple": TupleOutput,
    "odd_dict": DictOutput,
    "odd_map": MapOutput,
    "odd_compiled": compiled,
}.items():
    _register(_name, _kind)
