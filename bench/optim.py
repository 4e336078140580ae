"""Time of one optimizer step on ResNet-50's parameters (25.6 million in 161 tensors, fp32), ours and the
peers' in turns, one thread.

    python -m bench.optim                     every case, about two minutes; appends to results/optim.csv
    python -m bench.optim --cases lars lamb   some of them

Cases: `lars`, `lars-nesterov`, `lamb` (against the faster of timm's two code paths, round by round),
`lars-sgd` (against torch's multi-tensor SGD, which does less), `lamb-loop` (against the plain loop that
ColossalAI's Lamb is, written here from its formula), `zero1` (two gloo ranks: our step on DeepSpeed's slices,
its all-reduce included, against half of our step on whole layers).
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from bench import parser, rows

ROUNDS, STEPS = 21, 5
COMMAND = "python -m bench.optim"
HYPER: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-4}


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def parameters() -> list[torch.nn.Parameter]:
    """ResNet-50's parameters with gradients of their size."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50").to(DEVICE)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return list(model.parameters())


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
    "lamb-loop": (lamb, [LoopLamb], "LAMB as a plain loop (ColossalAI's form)", "<=1.0"),
}


def milliseconds(optimizer: torch.optim.Optimizer) -> float:
    """The fastest of some steps: what others do on the machine only adds."""
    times = []
    for _ in range(STEPS):
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
    for _ in range(ROUNDS):
        mine.append(milliseconds(ours))
        theirs.append(min(milliseconds(peer) for peer in peers))
    return rows.paired(
        "optim", case, name, mine, theirs, unit="ms", target=target, command=f"{COMMAND} --cases {case}"
    )


def zero1() -> rows.Row:
    """Measure the sharded step on two ranks of this machine."""
    from lab.ranks import run_on_ranks

    sharded, whole = run_on_ranks(2, _zero1_on_rank, timeout=300)[0]
    share = [t / 2 for t in whole]
    return rows.paired(
        "optim",
        "zero1",
        "half the unsharded step",
        sharded,
        share,
        unit="ms",
        target="<=1.1",
        command=f"{COMMAND} --cases zero1",
    )


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


def main() -> None:
    flags = parser(COMMAND, __doc__, cases=[*CASES, "zero1"])
    options = flags.parse_args()
    torch.set_num_threads(1)
    rows.write([zero1() if case == "zero1" else in_turns(case) for case in options.cases], "optim")


if __name__ == "__main__":
    main()
