"""SGD by torch's fused kernel: what torch's own loop over the layers gives, also where that kernel alone
would be wrong.
"""

import pytest
import torch
from torch import Tensor, nn

from lbtrain.optim import create_sgd

STEPS = 6
CHANNELS_LAST = torch.channels_last


def layers() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [
        nn.Parameter(torch.randn(shape, dtype=torch.float64))
        for shape in [(7, 5, 3, 3), (1,), (300, 11), (6, 4, 1, 1), (0, 3), ()]
    ]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    """The third layer has none in the first two steps."""
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
        parameter.grad = None if number == 2 and step < 2 else gradient


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    for step in range(STEPS):
        give_gradients(parameters, step)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * step
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def groups(parameters: list[nn.Parameter]) -> list[dict]:
    return [dict(params=parameters[:3], weight_decay=0.1), dict(params=parameters[3:], weight_decay=0.0)]


@pytest.mark.parametrize("momentum,nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_it_is_torchs_own_loop(momentum, nesterov):
    ours, theirs = layers(), layers()
    plain = torch.optim.SGD(groups(theirs), lr=0.0, momentum=momentum, nesterov=nesterov, foreach=False)
    optimizer = create_sgd(groups(ours), momentum=momentum, nesterov=nesterov)
    torch.testing.assert_close(stepped(optimizer, ours), stepped(plain, theirs), rtol=1e-13, atol=0)
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]


def test_a_gradient_in_another_order_than_its_weight():
    """The fused kernel alone goes wrong here without a word, which is why it is not asked."""
    weight, gradient = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)

    def step(make) -> Tensor:
        parameter = nn.Parameter(weight.clone())
        parameter.grad = gradient.to(memory_format=CHANNELS_LAST)
        optimizer = make([dict(params=[parameter])])
        optimizer.param_groups[0]["lr"] = 1.0
        optimizer.step()
        return parameter.detach()

    ours = step(lambda group: create_sgd(group, momentum=0.9, nesterov=False))
    torch.testing.assert_close(ours, weight - gradient, rtol=1e-6, atol=1e-6)
    alone = step(lambda group: torch.optim.SGD(group, momentum=0.9, fused=True))
    assert not torch.allclose(alone, weight - gradient), (
        "torch's fused kernel minds the order now: lbtrain/optim/sgd.py need not look"
    )


def test_weights_in_channels_last_order_are_fused():
    parameter = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=CHANNELS_LAST))
    before, parameter.grad = (
        parameter.detach().clone(),
        torch.randn(4, 3, 2, 2).to(memory_format=CHANNELS_LAST),
    )
    optimizer = create_sgd([dict(params=[parameter], lr=1.0)], momentum=0.9, nesterov=False)
    optimizer.step()
    assert optimizer.param_groups[0]["fused"] is True
    torch.testing.assert_close(parameter.detach(), before - parameter.grad)


def test_an_overflow_in_the_first_step_leaves_no_trace():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = create_sgd([dict(params=[parameter], lr=1.0)], momentum=0.9, nesterov=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor, expected in [(torch.inf, 1.0), (1.0, 0.0), (1.0, -1.9)]:
        optimizer.zero_grad()
        scaler.scale((parameter * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(parameter.detach(), torch.full((3,), expected))
