"""Time of one optimizer step on ResNet-50's parameters (25.6 million in 161 tensors, fp32), ours and the
peers' in turns, one thread.

    python -m bench.optim                     every case, about two minutes; appends to results/optim.csv
    python -m bench.optim --cases lars lamb   some of them

Cases: `lars`, `lars-nesterov`, `lamb` (against the faster of timm's two code paths, round by round),
`lars-sgd` (against torch's multi-tensor SGD, which does less), `lamb-loop` (against the plain loop that
ColossalAI's Lamb is, written here from its formula), `adamw` (as a recipe has it, against the faster of
torch's default and its fused kernel), `muon` (ResNet-18's parameters; against timm's, whose Newton-Schulz
runs in bf16), `muon-torch` (its weights as matrices, since torch's Muon takes no convolutions; against
torch's, which runs in bf16), `muon-bf16` (the same, ours in bf16 too), `muon-2` and `muon-4` (two and four
gloo ranks that share the matrices, against each orthogonalising all of them), `zero1` (two gloo ranks: our
step on DeepSpeed's slices, its all-reduce included, against half of our step on whole layers).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench import parser, rows

ROUNDS, STEPS = 21, 5
MUON_ROUNDS = 7
"""Of one step each: a step takes seconds."""
COMMAND = "python -m bench.optim"
HYPER: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-4}


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def model_with_gradients(name: str) -> torch.nn.Module:
    """A model of timm whose parameters have gradients of their size."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name).to(DEVICE)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def parameters() -> list[torch.nn.Parameter]:
    """ResNet-50's."""
    return list(model_with_gradients("resnet50").parameters())


def lars(nesterov: bool = False) -> torch.optim.Optimizer:
    from lbtrain.optim import LARS

    return LARS(parameters(), momentum=0.9, nesterov=nesterov, **HYPER)


def lamb() -> torch.optim.Optimizer:
    from lbtrain.optim import LAMB

    return LAMB(parameters(), **HYPER)


def timm_lars(foreach: bool, nesterov: bool = False) -> torch.optim.Optimizer:
    import timm.optim

    return timm.optim.Lars(parameters(), momentum=0.9, nesterov=nesterov, foreach=foreach, **HYPER)


def timm_lamb(foreach: bool) -> torch.optim.Optimizer:
    import timm.optim

    return timm.optim.Lamb(parameters(), foreach=foreach, max_grad_norm=None, **HYPER)


def muon(process_group: Any = None) -> torch.optim.Optimizer:
    from lbtrain.optim import Muon

    weights = list(model_with_gradients("resnet18").parameters())
    groups = [{"params": [p for p in weights if (p.ndim > 1) is on], "use_muon": on} for on in (True, False)]
    return Muon(groups, process_group=process_group, **HYPER)


def timm_muon() -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(model_with_gradients("resnet18"), "muon", momentum=0.95, **HYPER)


def matrices() -> list[torch.nn.Parameter]:
    """ResNet-18's weights of more than one dimension as [out, in * ...], with gradients of their size."""
    whole = [weight for weight in model_with_gradients("resnet18").parameters() if weight.ndim > 1]
    flat = [torch.nn.Parameter(weight.detach().flatten(1)) for weight in whole]
    for matrix in flat:
        matrix.grad = torch.randn_like(matrix)
    return flat


def matrix_muon(dtype: torch.dtype | None = None) -> torch.optim.Optimizer:
    from lbtrain.optim import Muon

    return Muon(matrices(), dtype=dtype, **HYPER)


def torch_muon() -> torch.optim.Optimizer:
    return torch.optim.Muon(matrices(), adjust_lr_fn="original", **HYPER)


def adamw() -> torch.optim.Optimizer:
    from lbtrain import Recipe
    from lbtrain.optim import create_optimizer

    recipe = Recipe().vary(optimizer=dict(name="adamw", weight_decay=HYPER["weight_decay"]))
    return create_optimizer(recipe.optimizer, model_with_gradients("resnet50"))


def torch_adamw(fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters(), fused=fused, **HYPER)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters(), momentum=0.9, foreach=True, **HYPER)


class LoopLamb(torch.optim.Optimizer):
    """LAMB as one writes it down: a loop over the tensors, a new tensor for every intermediate result."""

    def __init__(self) -> None:
        super().__init__(parameters(), {"lr": HYPER["lr"]})

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


# case: (our optimizer, the peers of which the faster counts, their name, target)
CASES: dict[
    str, tuple[Callable[[], torch.optim.Optimizer], list[Callable[[], torch.optim.Optimizer]], str, str]
] = {
    "lars": (lars, [lambda: timm_lars(True), lambda: timm_lars(False)], "timm Lars, faster path", "<=1.0"),
    "lars-nesterov": (
        lambda: lars(nesterov=True),
        [lambda: timm_lars(True, True), lambda: timm_lars(False, True)],
        "timm Lars, faster path",
        "<=1.0",
    ),
    "lars-sgd": (lars, [sgd], "torch SGD foreach", ""),
    "lamb": (lamb, [lambda: timm_lamb(True), lambda: timm_lamb(False)], "timm Lamb, faster path", "<=1.0"),
    "adamw": (
        adamw,
        [lambda: torch_adamw(False), lambda: torch_adamw(True)],
        "torch AdamW, faster path",
        "",
    ),
    "muon": (muon, [timm_muon], "timm Muon", ""),
    "muon-torch": (matrix_muon, [torch_muon], "torch Muon", ""),
    "muon-bf16": (lambda: matrix_muon(torch.bfloat16), [torch_muon], "torch Muon", ""),
    "lamb-loop": (lamb, [LoopLamb], "LAMB as a plain loop (ColossalAI's form)", "<=1.0"),
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


def in_turns(case: str) -> rows.Row:
    """Measure one case of CASES."""
    make, makers, name, target = CASES[case]
    ours, peers = make(), [maker() for maker in makers]
    for optimizer in (ours, *peers):
        optimizer.step()
    mine, theirs = [], []
    rounds, steps = (MUON_ROUNDS, 1) if case.startswith("muon") else (ROUNDS, STEPS)
    for _ in range(rounds):
        mine.append(milliseconds(ours, steps))
        theirs.append(min(milliseconds(peer, steps) for peer in peers))
    return rows.paired(
        "optim", case, name, mine, theirs, unit="ms", target=target, command=f"{COMMAND} --cases {case}"
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
    pairs = [(muon(group), list[float]()) for group in (dist.group.WORLD, None)]
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
    rows.write(
        [OVER_RANKS[case]() if case in OVER_RANKS else in_turns(case) for case in options.cases], "optim"
    )


if __name__ == "__main__":
    main()
