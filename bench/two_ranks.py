"""What a second rank brings on one machine: two gloo ranks with one thread each against one, for every engine
and for hand-written DDP.

    python -m bench.two_ranks                    every engine, about 4 minutes on two cores; appends to
                                                 results/two_ranks.csv
    python -m bench.two_ranks --engines ddp      some of them
    .venv-colossalai/bin/python -m bench.two_ranks --engines colossalai    (after `make colossalai`)

ResNet-20, 32 x 32, 64 images a rank. Four loops take turns in one process group: the engine; hand-written
DDP; the same loop on both ranks without any exchange; the loop on rank 0 while the other rank waits.
Efficiency is a step of the last over a step of two ranks; what the exchange costs is a step over a step
without exchange (both ranks compute in both, so the memory that they share falls out).
"""

import argparse
import importlib.util
from collections.abc import Iterator

import torch.distributed as dist

from bench import parser, rows
from bench.peers import Job, by_hand, without_exchange
from bench.turns import end_worker, in_turns, on_ranks

JOB = Job("cifar_resnet20", 32, 64, 4)
ENGINES = ("ddp", "deepspeed", "accelerate", "colossalai")
COMMAND = "python -m bench.two_ranks"


def alone(job: Job) -> Iterator[None]:
    """Rank 0 trains, the others wait."""
    loop = without_exchange(job)
    while True:
        if dist.get_rank() == 0:
            next(loop)
        dist.barrier()
        yield


def worker(engine: str) -> None:
    end_worker(in_turns(JOB, engine, [by_hand, without_exchange, alone]))


def measure(engine: str) -> list[rows.Row]:
    mine, by_ddp, no_exchange, single = on_ranks("bench.two_ranks", engine, ranks=2)

    def row(
        case: str,
        numerator: tuple[list[float], list[float]],
        denominator: tuple[list[float], list[float]],
        unit: str,
        target: str,
    ) -> rows.Row:
        ours, peer = (
            [a / b for a, b in zip(*pair, strict=True)] for pair in zip(numerator, denominator, strict=True)
        )
        command = f"{COMMAND} --engines {engine}"
        return rows.paired(
            "two_ranks",
            f"{engine}: {case}",
            "hand-written DDP",
            ours,
            peer,
            unit=unit,
            target=target,
            command=command,
        )

    return [
        row(
            "efficiency of two ranks",
            (single, single),
            (mine, by_ddp),
            "of one rank's images/s a rank",
            ">=0.97",
        ),
        row(
            "step with exchange over step without", (mine, by_ddp), (no_exchange, no_exchange), "x", "<=1.03"
        ),
    ]


def main() -> None:
    flags = parser(COMMAND, __doc__)
    flags.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=ENGINES,
        help="The engines (default: all that are installed).",
    )
    flags.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.worker:
        worker(options.worker)
        return
    for engine in options.engines:
        if importlib.util.find_spec("torch" if engine == "ddp" else engine) is None:
            print(f"{engine}: not measured, it is not installed here", flush=True)
            continue
        rows.write(measure(engine), "two_ranks")


if __name__ == "__main__":
    main()
