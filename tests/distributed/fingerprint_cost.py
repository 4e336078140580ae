"""How long ranks take to compare their fingerprints.

    python -m tests.distributed.fingerprint_cost

Measures the exchange on 2 and 4 ranks of this machine, and writes results/fingerprint.csv and the sentence in
docs/engines.md.
"""

import statistics
import time
from pathlib import Path

import torch.distributed as dist

from bench import rows
from lab.ranks import run_on_ranks
from lbtrain import Recipe
from lbtrain.runs.fingerprint import check_same_on_all_ranks, job_fingerprint
from tools.kit.publish import with_block

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
REPEATS = 50
WORLDS = (2, 4)


def exchange_seconds() -> float:
    """The median over all repeats, on this rank."""
    fingerprint, times = job_fingerprint(Recipe(), "ddp"), []
    for _ in range(REPEATS):
        dist.barrier()
        started = time.perf_counter()
        check_same_on_all_ranks(fingerprint)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def sentence(lines: list[dict[str, str]]) -> str:
    measured = " and ".join(f"{line['median ms']} ms on {line['ranks']} ranks" for line in lines)
    return f"Measured on {lines[0]['hardware']}: {measured} of this machine (median of {REPEATS})."


def main() -> None:
    lines = [
        {
            "ranks": str(ranks),
            "median ms": f"{1000 * max(run_on_ranks(ranks, exchange_seconds)):.1f}",
            "repeats": str(REPEATS),
            "command": "python -m tests.distributed.fingerprint_cost",
        }
        for ranks in WORLDS
    ]
    rows.replace(lines, "fingerprint")
    written = sentence(rows.read("fingerprint"))
    print(written)
    if PAGE.is_relative_to(rows.RESULTS.parent):
        PAGE.write_text(with_block(PAGE.read_text(), "fingerprint", written))


if __name__ == "__main__":
    main()
