"""Time of one optimizer step on ResNet-50's parameters (25.6 million in 161 tensors, fp32), ours and the
peers' in turns, one thread.

    python -m bench.optim                     every case, about two minutes; appends to results/optim.csv
    python -m bench.optim --cases lars lamb   some of them

Cases: `lars`, `lars-nesterov`, `lamb` (against the faster of timm's two code paths, round by round),
`lars-sgd` (against torch's multi-tensor SGD, which does less), `lars-fused-sgd` and `lamb-fused-adamw`
(against torch's fused kernels, which do less: the bound), `lamb-loop` (against the plain loop that
ColossalAI's Lamb is, written here from its formula), `adamw` (as a recipe has it, against the faster of
torch's default and its fused kernel), `muon` (ResNet-18's parameters; against timm's, whose Newton-Schulz
runs in bf16), `muon-torch` (its weights as matrices, since torch's Muon takes no convolutions; against
torch's, which runs in bf16), `muon-bf16` (the same, ours in bf16 too), `muon-2` and `muon-4` (two and four
gloo ranks that share the matrices, against each orthogonalising all of them), `zero1` (two gloo ranks: our
step on DeepSpeed's slices, its all-reduce included, against half of our step on whole layers).
"""

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from bench import parser, rows

ROUNDS, STEPS = 21, 5
MUON_ROUNDS = 7
"""Of one step each on a CPU, where a step takes seconds."""
COMMAND = "python -m bench.optim"
HYPER: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-4}


@functools.cache
def device() -> str:
    """Not a constant: while this module is imported, the GPUs are not hidden yet (`bench.parser`)."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done all that it was given."""
    if device() == "cuda":
        torch.cuda.synchronize()


def model_with_gradients(name: str) -> torch.nn.Module:
    """A model of timm whose parameters have gradients of their size."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name).to(device())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def parameters(model: str) -> list[torch.nn.Parameter]:
    return list(model_with_gradients(model).parameters())


def lars(model: str, nesterov: bool = False) -> torch.optim.Optimizer:
    from lbtrain.optim import LARS

    return LARS(parameters(model), momentum=0.9, nesterov=nesterov, **HYPER)


def lamb(model: str) -> torch.optim.Optimizer:
    from lbtrain.optim import LAMB

    return LAMB(parameters(model), **HYPER)


def timm_lars(model: str, *, foreach: bool, nesterov: bool = False) -> torch.optim.Optimizer:
    import timm.optim

    return timm.optim.Lars(parameters(model), momentum=0.9, nesterov=nesterov, foreach=foreach, **HYPER)


def timm_lamb(model: str, *, foreach: bool) -> torch.optim.Optimizer:
    import timm.optim

    return timm.optim.Lamb(parameters(model), foreach=foreach, max_grad_norm=None, **HYPER)


def muon(model: str, process_group: Any = None) -> torch.optim.Optimizer:
    from lbtrain.optim import Muon

    weights = parameters(model)
    groups = [{"params": [p for p in weights if (p.ndim > 1) is on], "use_muon": on} for on in (True, False)]
    return Muon(groups, process_group=process_group, **HYPER)


def timm_muon(model: str) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(model_with_gradients(model), "muon", momentum=0.95, **HYPER)


def matrices(model: str) -> list[torch.nn.Parameter]:
    """The weights of more than one dimension as [out, in * ...], with gradients of their size."""
    flat = [torch.nn.Parameter(weight.detach().flatten(1)) for weight in parameters(model) if weight.ndim > 1]
    for matrix in flat:
        matrix.grad = torch.randn_like(matrix)
    return flat


def matrix_muon(model: str, dtype: torch.dtype | None = None) -> torch.optim.Optimizer:
    from lbtrain.optim import Muon

    return Muon(matrices(model), dtype=dtype, **HYPER)


def torch_muon(model: str) -> torch.optim.Optimizer:
    return torch.optim.Muon(matrices(model), adjust_lr_fn="original", **HYPER)


def adamw(model: str) -> torch.optim.Optimizer:
    from lbtrain import Recipe
    from lbtrain.optim import create_optimizer

    recipe = Recipe().vary(optimizer=dict(name="adamw", weight_decay=HYPER["weight_decay"]))
    return create_optimizer(recipe.optimizer, model_with_gradients(model))


def torch_adamw(model: str, *, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters(model), fused=fused, **HYPER)


def torch_sgd(model: str, **kernels: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters(model), momentum=0.9, **kernels, **HYPER)


class LoopLamb(torch.optim.Optimizer):
    """LAMB as one writes it down: a loop over the tensors, a new tensor for every intermediate result."""

    def __init__(self, model: str) -> None:
        super().__init__(parameters(model), {"lr": HYPER["lr"]})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for w in self.param_groups[0]["params"]:
            state, g = self.state[w], w.grad
            a, c = state.setdefault("a", torch.zeros_like(w)), state.setdefault("c", torch.zeros_like(w))
            a.mul_(0.9).add_(g, alpha=0.1)
            c.mul_(0.999).addcmul_(g, g, value=0.001)
            u = a / c.sqrt().add(1e-6)
            u.add_(w, alpha=HYPER["weight_decay"])
            w_norm, u_norm = w.pow(2).sum().sqrt(), u.pow(2).sum().sqrt()
            ratio = 1.0 if w_norm == 0 or u_norm == 0 else w_norm / u_norm
            w.add_(u, alpha=float(-HYPER["lr"] * ratio))


Maker = Callable[[str], torch.optim.Optimizer]
"""Of the optimizer of a model's parameters."""


class Case(NamedTuple):
    """Of several peers the faster counts."""

    ours: Maker
    peers: list[Maker]
    peer_name: str
    target: str = ""
    model: str = "resnet50"


CASES = {
    "lars": Case(
        lars,
        [partial(timm_lars, foreach=True), partial(timm_lars, foreach=False)],
        "timm Lars, faster path",
        "<=1.0",
    ),
    "lars-nesterov": Case(
        partial(lars, nesterov=True),
        [
            partial(timm_lars, foreach=True, nesterov=True),
            partial(timm_lars, foreach=False, nesterov=True),
        ],
        "timm Lars, faster path",
        "<=1.0",
    ),
    "lars-sgd": Case(lars, [partial(torch_sgd, foreach=True)], "torch SGD foreach"),
    "lars-fused-sgd": Case(lars, [partial(torch_sgd, fused=True)], "torch SGD fused"),
    "lamb": Case(
        lamb,
        [partial(timm_lamb, foreach=True), partial(timm_lamb, foreach=False)],
        "timm Lamb, faster path",
        "<=1.0",
    ),
    "lamb-fused-adamw": Case(lamb, [partial(torch_adamw, fused=True)], "torch AdamW fused"),
    "adamw": Case(
        adamw,
        [partial(torch_adamw, fused=False), partial(torch_adamw, fused=True)],
        "torch AdamW, faster path",
    ),
    "muon": Case(muon, [timm_muon], "timm Muon", model="resnet18"),
    "muon-torch": Case(matrix_muon, [torch_muon], "torch Muon", model="resnet18"),
    "muon-bf16": Case(
        partial(matrix_muon, dtype=torch.bfloat16), [torch_muon], "torch Muon", model="resnet18"
    ),
    "lamb-loop": Case(lamb, [LoopLamb], "LAMB as a plain loop (ColossalAI's form)", "<=1.0"),
}


def milliseconds(optimizer: torch.optim.Optimizer, steps: int = STEPS) -> float:
    """The fastest of some steps: what others do on the machine only adds."""
    times = []
    for _ in range(steps):
        wait()
        start = time.perf_counter()
        optimizer.step()
        wait()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def in_turns(name: str, *, tiny: bool = False) -> rows.Row:
    """Measure one case of CASES; `tiny`: one step each, on the parameters of a tiny model."""
    case = CASES[name]
    model = "test_resnet" if tiny else case.model
    ours, peers = case.ours(model), [maker(model) for maker in case.peers]
    for optimizer in (ours, *peers):
        optimizer.step()
    mine, theirs = [], []
    takes_seconds = name.startswith("muon") and device() == "cpu"
    rounds, steps = (1, 1) if tiny else (MUON_ROUNDS, 1) if takes_seconds else (ROUNDS, STEPS)
    for _ in range(rounds):
        mine.append(milliseconds(ours, steps))
        theirs.append(min(milliseconds(peer, steps) for peer in peers))
    command = f"{COMMAND} --cases {name}"
    return rows.paired(
        "optim", name, case.peer_name, mine, theirs, unit="ms", target=case.target, command=command
    )


def shared_muon(ranks: int) -> rows.Row:
    """Measure a step whose matrices are shared between ranks of this machine, of one thread each."""
    from lab.ranks import run_on_ranks

    shared, alone = run_on_ranks(ranks, _muon_on_rank, timeout=900)[0]
    peer = "every rank orthogonalises every matrix"
    command = f"{COMMAND} --cases muon-{ranks}"
    return rows.paired("optim", f"muon-{ranks}", peer, shared, alone, unit="ms", target="", command=command)


def _muon_on_rank() -> tuple[list[float], list[float]]:
    import torch.distributed as dist

    torch.set_num_threads(1)
    pairs = [(muon("resnet18", group), list[float]()) for group in (dist.group.WORLD, None)]
    for _ in range(MUON_ROUNDS + 1):
        for optimizer, times in pairs:
            dist.barrier()
            times.append(milliseconds(optimizer, steps=1))
    return pairs[0][1][1:], pairs[1][1][1:]


def zero1() -> rows.Row:
    """Measure the sharded step on two ranks of this machine."""
    from lab.ranks import run_on_ranks

    sharded, whole = run_on_ranks(2, _zero1_on_rank, timeout=300)[0]
    share = [t / 2 for t in whole]
    peer, line = "half the unsharded step", f"{COMMAND} --cases zero1"
    return rows.paired("optim", "zero1", peer, sharded, share, unit="ms", target="<=1.1", command=line)


def _zero1_on_rank() -> tuple[list[float], list[float]]:
    import timm
    import torch.distributed as dist

    from lbtrain.engines.deepspeed import import_deepspeed
    from lbtrain.optim import LARS, bind_deepspeed, parameter_groups

    deepspeed = import_deepspeed(torch.device("cpu"))
    model = timm.create_model("resnet50")
    sharded = LARS(parameter_groups(model, weight_decay=HYPER["weight_decay"]), lr=HYPER["lr"])
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 1},
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=sharded, config=config, dist_init_required=False)
    bind_deepspeed(sharded, engine)
    for group in sharded.param_groups:
        group["params"][0].grad = torch.randn_like(group["params"][0])
    reference = timm.create_model("resnet50")
    whole = LARS(parameter_groups(reference, weight_decay=HYPER["weight_decay"]), lr=HYPER["lr"])
    for parameter in reference.parameters():
        parameter.grad = torch.randn_like(parameter)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for optimizer, kept in zip((sharded, whole), times, strict=True):
            dist.barrier()
            kept.append(milliseconds(optimizer))
    return times[0][1:], times[1][1:]


OVER_RANKS: dict[str, Callable[[], rows.Row]] = {
    "muon-2": partial(shared_muon, 2),
    "muon-4": partial(shared_muon, 4),
    "zero1": zero1,
}


def main() -> None:
    flags = parser(COMMAND, __doc__, cases=[*CASES, *OVER_RANKS])
    options = flags.parse_args()
    torch.set_num_threads(1)
    for case in options.cases:
        rows.write([OVER_RANKS[case]() if case in OVER_RANKS else in_turns(case)], "optim")


if __name__ == "__main__":
    main()
