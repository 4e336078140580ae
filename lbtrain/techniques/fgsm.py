"""The fast gradient sign method: images moved to where the loss is higher.

Source: Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", section 4: x + epsilon *
sign(gradient of the loss). Cost: one forward and one backward pass over the images.
"""

import torch
from torch import Tensor, nn

from lbtrain.analysis.objective import Loss, eval_mode


def fgsm(
    model: nn.Module, loss: Loss, batch: tuple[Tensor, ...], epsilon: float, *, low: Tensor, high: Tensor
) -> Tensor:
    """The images of `batch` (first of its tensors) moved by `epsilon` an element, and cut off at `low` and
    `high` (they broadcast); an element that lies beyond these already stays there.

    The model is in evaluation mode meanwhile and left as it was, so that an image's direction does not depend
    on its neighbours (and batch norm is not polluted, as in the code of Yao et al. 2018). `model` is the bare
    module, not its DDP or DeepSpeed wrapper.
    """
    images = batch[0].detach().clone().requires_grad_()
    with eval_mode(model, "eval"):
        (gradient,) = torch.autograd.grad(loss(model, (images, *batch[1:])), images)
    start = images.detach()
    moved = start + epsilon * gradient.sign()
    return moved.clamp(torch.minimum(start, low), torch.maximum(start, high))
