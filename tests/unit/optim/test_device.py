"""On a GPU a step reads nothing back: run on fake CUDA tensors, which have no values, so that any read of one
raises.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lbtrain.optim import LAMB, LARS, create_adamw

STEPS = [
    (LARS, {}),
    (LARS, {"nesterov": True, "momentum_scaling": "trust_ratio", "larc_clip": True, "trust_clip": 1.0}),
    (LARS, {"momentum": 0.0}),
    (LARS, {"momentum_scaling": "none", "clip_value": 10.0}),
    (LAMB, {"trust_clip": 1.0}),
    (LAMB, {"bias_correction": False}),
]


@pytest.mark.parametrize("optimizer,options", STEPS)
def test_no_value_is_read_from_the_device(optimizer, options):
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in [(4, 3), (5,), (1,)]]
        made = optimizer(parameters, lr=0.1, weight_decay=0.01, **options)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        for _ in range(2):
            made.step()
        assert all(value.device.type == "cuda" for state in made.state.values() for value in state.values())
        with pytest.raises(DataDependentOutputException):  # what a read would do
            parameters[2].item()


def test_adamw_reads_no_step_count_from_the_device():
    """torch's own loop does, unless its counts lie on the CPU, where those of a checkpoint are loaded to."""
    with FakeTensorMode():
        parameter = nn.Parameter(torch.empty(4, 3, device="cuda"))
        made = create_adamw([dict(params=[parameter])], betas=(0.9, 0.999), eps=1e-8)
        parameter.grad = torch.empty_like(parameter)
        made.step()
        made.state[parameter]["step"] = made.state[parameter]["step"].cpu()
        made.step()
        assert made.state[parameter]["step"].device.type == "cuda"


@pytest.mark.parametrize("optimizer", [LARS, LAMB])
@pytest.mark.parametrize(
    "settings",
    [{"use_trust_ratio": False, "weight_decay": 0.0}, {"use_trust_ratio": True, "weight_decay": 0.01}],
)
def test_the_ratios_lie_beside_the_weights(optimizer, settings, monkeypatch):
    devices = []
    apply = optimizer._apply

    def watched(self, job, ratios):
        devices.append(ratios.device.type)
        apply(self, job, ratios)

    monkeypatch.setattr(optimizer, "_apply", watched)
    parameter = nn.Parameter(torch.empty(4, device="meta"))
    parameter.grad = torch.empty_like(parameter)
    optimizer([{"params": [parameter], **settings}], lr=0.1).step()
    assert devices == ["meta"]


@pytest.mark.parametrize("device,rounds", [("cpu", 3), ("meta", 1)])
def test_a_gpu_gets_few_rounds_and_a_cache_small_ones(monkeypatch, device, rounds):
    """Each round starts some forty kernels, whatever its size."""
    sizes = []
    monkeypatch.setattr(LARS, "_apply", lambda self, job, ratios: sizes.append(len(job.slices)))
    parameters = [nn.Parameter(torch.empty(1 << 19, device=device)) for _ in range(6)]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    LARS(parameters, lr=0.1).step()
    assert len(sizes) == rounds and sum(sizes) == 6
