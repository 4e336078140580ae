"""One small training run, unsharded in one process and sharded on N ranks: the jobs of test_sharded_*.py."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lab.ranks import run_on_ranks
from lbtrain.engines.deepspeed import import_deepspeed
from lbtrain.optim import LAMB, LARS, Muon, bind_deepspeed, parameter_groups

BATCH = 16


class OddNet(nn.Module):
    """Odd sizes everywhere, norms four decades apart, a tied layer, layers of one element, one without
    gradient.
    """

    def __init__(self, width: int = 11):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(13, width)
        self.norm = nn.LayerNorm(width)
        self.tied = nn.Linear(width, width, bias=False)
        self.tied_again = nn.Linear(width, width, bias=False)
        self.tied_again.weight = self.tied.weight
        self.unused = nn.Linear(3, 5)
        self.scale = nn.Parameter(torch.tensor([1.7]))
        self.gain = nn.Parameter(torch.tensor([0.5]))
        self.last = nn.Linear(width, 3, bias=False)
        with torch.no_grad():
            self.first.weight.mul_(30)
            self.last.weight.mul_(0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).tanh() * self.scale
        return self.last(self.tied_again(self.tied(x).tanh()).tanh() * self.gain)


@dataclass(frozen=True)
class Run:
    """What is trained; the same for the sharded and the unsharded process."""

    optimizer: str = "lars"
    steps: int = 20
    accumulation: int = 1
    clip: float = 0.0
    width: int = 11
    filters: tuple[str, ...] = ("norm", "bias")
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return f"{self.optimizer}-acc{self.accumulation}"

    def model(self) -> nn.Module:
        return OddNet(self.width).to(self.dtype)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        no_muon = ["last.*"] if self.optimizer.startswith("muon") else None
        groups = parameter_groups(
            model, weight_decay=0.01, no_decay=self.filters, no_trust_ratio=["bias"], no_muon=no_muon
        )
        return {
            "lars": lambda: LARS(groups, lr=0.0, trust_coefficient=0.02),
            "lars-outside-nesterov": lambda: LARS(
                groups, lr=0.0, trust_coefficient=0.02, nesterov=True, momentum_scaling="trust_ratio"
            ),
            "lars-unscaled": lambda: LARS(
                groups, lr=0.0, trust_coefficient=0.02, momentum_scaling="none", clip_value=0.1
            ),
            "lamb": lambda: LAMB(groups, lr=0.0),
            "muon": lambda: Muon(groups, lr=0.0, rate_adjustment="match_rms_adamw"),
            "sgd": lambda: torch.optim.SGD(groups, lr=0.0, momentum=0.9),
        }[self.optimizer]()

    def rate(self, step: int) -> float:
        return {"lamb": 0.02, "muon": 0.01}.get(self.optimizer, 0.5) * min(1.0, (step + 1) / 5)

    def loss(self, model: nn.Module, step: int, part: int, parts: int) -> Tensor:
        """The mean over one of `parts` equal parts of the step's batch."""
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(BATCH, 13, generator=generator), torch.randint(3, (BATCH,), generator=generator)
        return F.cross_entropy(model(x.chunk(parts)[part].to(self.dtype)).float(), y.chunk(parts)[part])


LIMIT = 1e-5
VARIANTS = [
    Run("lars"),
    Run("lars", accumulation=2, clip=0.3),
    Run("lars-outside-nesterov", filters=(), width=7),
    Run("lars-unscaled", accumulation=2),
    Run("lamb"),
    Run("lamb", accumulation=2, clip=0.3, filters=("bias",)),
    Run("muon"),
    Run("muon", accumulation=2, clip=0.3, width=7),
]


def train_plain(run: Run) -> dict[str, Tensor]:
    """One process, whole layers."""
    model = run.model()
    plain_steps(run, model, run.make_optimizer(model))
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def plain_steps(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, start: int = 0) -> None:
    for step in range(start, start + run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(step)
        run.loss(model, step, 0, 1).backward()
        if run.clip:
            nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        optimizer.step()
        optimizer.zero_grad()


def deepspeed_engine(
    run: Run, stage: int, model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any
) -> Any:
    deepspeed = import_deepspeed(torch.device("cpu"))  # the rank has run other tests, in half precision too
    deepspeed.logger.setLevel("ERROR")
    micro = BATCH // dist.get_world_size() // run.accumulation
    config = {
        "train_batch_size": micro * dist.get_world_size(),
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": run.clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 20},
        **changes,
    }
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]


def deepspeed_steps(run: Run, engine: Any, start: int = 0) -> None:
    world, rank = dist.get_world_size(), dist.get_rank()
    for step in range(start, start + run.steps):
        for group in engine.optimizer.param_groups:
            group["lr"] = run.rate(step)
        for window in range(run.accumulation):
            last = window + 1 == run.accumulation
            engine.set_gradient_accumulation_boundary(last)
            part = rank * run.accumulation + window
            loss = run.loss(engine, step, part, world * run.accumulation) / run.accumulation
            engine.backward(loss, scale_wrt_gas=False)
            engine.step()


def whole_weights(engine: Any) -> dict[str, Tensor]:
    weights = {}
    for name, parameter in engine.module.named_parameters():
        context: Any = contextlib.nullcontext()
        if hasattr(parameter, "ds_id"):
            import deepspeed

            context = deepspeed.zero.GatheredParameters([parameter])
        with context:
            weights[name] = parameter.detach().clone()
    return weights


def train_deepspeed(run: Run, stage: int, bind: bool = True, **changes: Any) -> dict[str, Tensor]:
    """On every rank of the process group; returns the whole weights."""
    model = run.model()
    optimizer = run.make_optimizer(model)
    engine = deepspeed_engine(run, stage, model, optimizer, **changes)
    if bind:
        bind_deepspeed(optimizer, engine)
    deepspeed_steps(run, engine)
    weights = whole_weights(engine)
    engine.destroy()
    return weights


def difference(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of any layer."""
    assert ours.keys() == expected.keys()
    return max(
        float((ours[name].double() - expected[name].double()).norm() / expected[name].double().norm())
        for name in expected
    )


def assert_same_as_one_process(
    run: Run, world_size: int, train: Callable[[Run, int], dict[str, Tensor]], stage: int
) -> None:
    """`train(run, stage)` on every one of `world_size` ranks gives the weights of one process that holds
    whole layers.
    """
    expected = train_plain(run)
    for weights in run_on_ranks(world_size, train, run, stage):
        assert difference(weights, expected) < LIMIT
