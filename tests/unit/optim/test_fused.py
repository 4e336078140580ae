"""SGD and AdamW by torch's fused kernels: what torch's own loop over the layers gives, also where those
kernels alone would be wrong.
"""

import pytest
import torch
from torch import Tensor, nn

from lbtrain.engines.protocol import load_named_optimizer_state, named_optimizer_state
from lbtrain.optim import create_adamw, create_sgd

STEPS = 6
CHANNELS_LAST = torch.channels_last
BETAS = dict(betas=(0.8, 0.99), eps=1e-6)
SGD = [
    dict(momentum=0.0, nesterov=False),
    dict(momentum=0.9, nesterov=False),
    dict(momentum=0.9, nesterov=True),
]
PAIRS = [(create_sgd, torch.optim.SGD, options) for options in SGD] + [
    (create_adamw, torch.optim.AdamW, BETAS)
]
"""(ours, torch's, options)"""


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


@pytest.mark.parametrize("make,torchs,options", PAIRS)
def test_it_is_torchs_own_loop(make, torchs, options):
    ours, theirs = layers(), layers()
    plain = torchs(groups(theirs), lr=0.0, foreach=False, **options)
    optimizer = make(groups(ours), **options)
    torch.testing.assert_close(stepped(optimizer, ours), stepped(plain, theirs), rtol=1e-13, atol=0)
    assert [group["fused"] for group in optimizer.param_groups] == [True, True]


@pytest.mark.parametrize("make,torchs,options", PAIRS[2:])
def test_a_gradient_in_another_order_than_its_weight(make, torchs, options):
    """The fused kernel alone goes wrong here without a word, which is why it is not asked."""
    weight, gradient = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)

    def two_steps(optimizer_of) -> Tensor:
        parameter = nn.Parameter(weight.clone())
        optimizer = optimizer_of([dict(params=[parameter])])
        for scale in (1.0, weight):  # AdamW's first step has the gradient's signs only
            optimizer.param_groups[0]["lr"] = 0.1
            parameter.grad = (gradient * scale).to(memory_format=CHANNELS_LAST)
            optimizer.step()
        return parameter.detach()

    plain = two_steps(lambda group: torchs(group, lr=0.0, foreach=False, **options))
    torch.testing.assert_close(two_steps(lambda group: make(group, **options)), plain, rtol=1e-6, atol=1e-6)
    alone = two_steps(lambda group: torchs(group, lr=0.0, fused=True, **options))
    assert not torch.allclose(alone, plain), (
        "torch's fused kernel minds the order now: lbtrain/optim/fused.py need not look"
    )


@pytest.mark.parametrize("make,torchs,options", PAIRS[2:])
def test_weights_in_channels_last_order_are_fused(make, torchs, options):
    weight, gradient = (torch.randn(4, 3, 2, 2).to(memory_format=CHANNELS_LAST) for _ in range(2))
    ours, theirs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    optimizer = make([dict(params=[ours], lr=1.0)], **options)
    for parameter, each in ((ours, optimizer), (theirs, torchs([theirs], lr=1.0, foreach=False, **options))):
        parameter.grad = gradient.clone()
        each.step()
    assert optimizer.param_groups[0]["fused"] is True
    torch.testing.assert_close(ours.detach(), theirs.detach())


@pytest.mark.parametrize("make,torchs,options", PAIRS)
def test_a_checkpoint_of_the_loop_goes_on_under_the_kernel_and_back(make, torchs, options):
    """The states have the names, shapes and values that torch's own loop gives them."""

    def resumed(first, then) -> list[Tensor]:
        models = [nn.ParameterList(layers()) for _ in range(2)]
        stepped(optimizer := first(models[0]), list(models[0]))
        models[1].load_state_dict(models[0].state_dict())
        state = named_optimizer_state(models[0], optimizer)
        load_named_optimizer_state(models[1], following := then(models[1]), state)
        return stepped(following, list(models[1]))

    def loop(model) -> torch.optim.Optimizer:
        return torchs(groups(list(model)), lr=0.0, foreach=False, **options)

    def kernel(model) -> torch.optim.Optimizer:
        return make(groups(list(model)), **options)

    expected = resumed(loop, loop)
    for first, then in ((loop, kernel), (kernel, loop)):
        torch.testing.assert_close(resumed(first, then), expected, rtol=1e-13, atol=0)


def test_the_state_of_a_weight_without_dimensions_follows_it_to_its_device():
    """As of NFNet's gains: it looks like a counter, which stays on the CPU."""
    model = nn.ParameterList([nn.Parameter(torch.zeros((), device="meta"))])
    optimizer = torch.optim.SGD(model)
    state = {"0": {"momentum_buffer": torch.ones(()), "step": torch.ones(())}}
    load_named_optimizer_state(model, optimizer, state)
    loaded = optimizer.state[model[0]]
    assert (loaded["momentum_buffer"].device.type, loaded["step"].device.type) == ("meta", "cpu")


@pytest.mark.parametrize(
    "make,options,values",
    [(create_sgd, SGD[1], (1.0, 0.0, -1.9)), (create_adamw, BETAS, (1.0, 0.0, -1.0))],
)
def test_an_overflow_in_the_first_step_leaves_no_trace(make, options, values):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = make([dict(params=[parameter], lr=1.0, weight_decay=0.0)], **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor, expected in zip((torch.inf, 1.0, 1.0), values, strict=True):
        optimizer.zero_grad()
        scaler.scale((parameter * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(parameter.detach(), torch.full((3,), expected))


def test_a_state_of_another_order_in_memory_gets_that_of_the_weights():
    """A resumed run, or one that goes on from ZeRO's slices, would else never be fused again."""

    def made(order: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 2).to(memory_format=order)
        return model, create_adamw([dict(params=list(model.parameters()), weight_decay=0.1)], **BETAS)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        return model.weight.detach()

    before = made(torch.contiguous_format)
    step(*before)
    model, optimizer = made(CHANNELS_LAST)
    load_named_optimizer_state(model, optimizer, named_optimizer_state(*before))
    model.load_state_dict(before[0].state_dict())
    torch.testing.assert_close(step(model, optimizer), step(*before))
    assert optimizer.param_groups[0]["fused"]
    assert optimizer.state[model.weight]["exp_avg"].stride() == model.weight.stride()
