"""Drop path (stochastic depth) whose draws belong to the example and not to the micro-batch that holds it.

Source: Huang et al. 2016, "Deep networks with stochastic depth", as timm's DropPath: each example skips a
residual branch with probability `drop_prob`, and what is kept is divided by 1 - drop_prob. timm draws from
torch's global generator, once for a micro-batch, so that its result depends on the batch split; here a draw
can be a hash of (seed, position in the run, number of the layer).

Cost: one hash an example and layer, a copy of them to the device a micro-batch.
"""

from timm.layers import DropPath
from torch import Tensor, nn


class ExampleDropPath(DropPath):
    """timm's layer, until it is given the draws of a micro-batch."""

    draws: Tensor | None = None
    """Of the n examples of the micro-batch, uniform in [0, 1), shape (n,). What is below drop_prob is
    dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.draws is None or not self.drop_prob or not self.training:
            out: Tensor = super().forward(x)
            return out
        if len(self.draws) != len(x):
            raise ValueError(
                f"drop path sees {len(x)} rows, but the micro-batch has {len(self.draws)} images: use "
                "model.drop_path=0, and no drop_path_rate, with this model"
            )
        kept = (self.draws >= self.drop_prob).to(x.dtype).view(-1, *(1,) * (x.dim() - 1))
        if self.drop_prob < 1 and self.scale_by_keep:
            kept = kept / (1 - self.drop_prob)
        return x * kept


def convert_drop_path(model: nn.Module) -> None:
    """Makes every drop path layer of `model` an ExampleDropPath, in place."""
    for module in model.modules():
        if type(module) is DropPath:
            module.__class__ = ExampleDropPath


def drop_path_layers(model: nn.Module) -> list[ExampleDropPath]:
    """In the order of the model, which may be wrapped."""
    return [module for module in model.modules() if isinstance(module, ExampleDropPath)]
