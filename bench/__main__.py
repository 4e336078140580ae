"""The performance claims, measured: `make bench`. The time to accuracy on CIFAR-10 is not among them, since
it takes hours and needs the images: `python -m bench.accuracy` measures it.

python -m bench                       all that this machine can measure: appends to results/ and renews
                                      docs/results.md
python -m bench --only train optim    some of them
python -m bench --check               measures, writes nothing, and exits with 1 where a ratio is worse
                                      than the last row of the same hardware says (`make bench-check`)
python -m bench --list                what there is, how long it takes, and what cannot run here and why
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import parser, report, rows
from lab.hosts import why_not

SLOWER = 0.95
"""A ratio this much worse than the last one, whose interval lies beyond the last one's, is a regression."""


def _always() -> str | None:
    return None


def _gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no GPU here"


@dataclass(frozen=True)
class Bench:
    """`missing` says why it cannot run here, or None."""

    name: str
    minutes: float
    missing: Callable[[], str | None] = _always

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", f"bench.{self.name}"]


def _pyhessian() -> str | None:
    return (
        None
        if os.environ.get("PYHESSIAN")
        else "no PyHessian (PYHESSIAN=a checkout of github.com/amirgholami/PyHessian)"
    )


BENCHES = (
    Bench("train", 4),
    Bench("two_ranks", 3),
    Bench("optim", 1.5),
    Bench("stopwatch", 1),
    Bench("startup", 3),
    Bench("slowest_rank", 1),
    Bench("noise_scale", 1.5),
    Bench("checkpoint", 3),
    Bench("hessian", 7, _pyhessian),
    Bench("scaling_prediction", 2),
    Bench("hosts_prediction", 7, why_not),
    Bench("input", 1),
    Bench("gpu", 8, _gpu),
)


def regressions(before: list[report.Line], after: list[report.Line]) -> list[str]:
    """What got worse, one sentence each, which names the packages that had other versions. A row that is new
    cannot have got worse.
    """
    known = {(line["case"], line["peer_name"]): line for line in before}
    worse = []
    for line in after:
        old = known.get((line["case"], line["peer_name"]))
        if not old or not old["ratio"] or not line["ratio"]:
            continue
        now, then = report.better(line, line["ratio"]), report.better(old, old["ratio"])
        best_now = max(report.better(line, line[end]) for end in ("ratio_low", "ratio_high"))
        worst_then = min(report.better(old, old[end]) for end in ("ratio_low", "ratio_high"))
        if now < SLOWER * then and best_now < worst_then:
            worse.append(
                f"{line['case']} against {line['peer_name']}: ratio {float(line['ratio']):.3f}, was "
                f"{float(old['ratio']):.3f}{_other_versions(old, line)}"
            )
    return worse


def _other_versions(old: report.Line, new: report.Line) -> str:
    then = set(old["versions"].split()) - set(new["versions"].split())
    return f", then with {', '.join(sorted(then))}" if then else ""


def run(benches: list[Bench], results: Path) -> list[str]:
    """Runs them one after the other; returns the names of those that failed."""
    failed = []
    for number, bench in enumerate(benches, 1):
        left = sum(later.minutes for later in benches[number - 1 :])
        print(
            f"[{number}/{len(benches)}] {bench.name}: about {bench.minutes:g} min, all that is left about "
            f"{left:g} min",
            flush=True,
        )
        started = time.monotonic()
        environment = {**os.environ, "LBTRAIN_RESULTS": str(results)}
        done = subprocess.run(bench.command, env=environment, check=False)
        print(
            f"{bench.name}: {'done' if done.returncode == 0 else 'FAILED'} in "
            f"{(time.monotonic() - started) / 60:.1f} min",
            flush=True,
        )
        failed += [bench.name] * (done.returncode != 0)
    return failed


def main() -> None:
    flags = parser("python -m bench", __doc__, hide_gpus=False)
    flags.add_argument(
        "--only",
        nargs="+",
        choices=[bench.name for bench in BENCHES],
        metavar="NAME",
        help="Only these benches.",
    )
    flags.add_argument(
        "--check",
        action="store_true",
        help="Compare new ratios with the last rows of the same hardware, and write nothing.",
    )
    flags.add_argument("--list", action="store_true", help="List the benches.")
    options = flags.parse_args()
    wanted = [bench for bench in BENCHES if not options.only or bench.name in options.only]
    skipped = {bench.name: reason for bench in wanted if (reason := bench.missing())}
    benches = [bench for bench in wanted if bench.name not in skipped]
    if options.list:
        for bench in wanted:
            print(
                f"{bench.name:<20} {bench.minutes:4g} min  "
                f"{'skipped: ' + skipped[bench.name] if bench.name in skipped else 'runs here'}"
            )
        return
    for name, reason in skipped.items():
        print(f"{name}: not measured, {reason}")
    if "train" in {bench.name for bench in benches} and not os.environ.get("TIMM"):
        print(
            "train: not measured against timm's own loop, no train.py of it (TIMM=a checkout of timm's "
            "repository)"
        )
    if options.check:
        with tempfile.TemporaryDirectory() as folder:
            failed = run(benches, Path(folder))
            worse = [text for path in sorted(Path(folder).glob("*.csv")) for text in _compared(path)]
        print(*(worse or ["no ratio got worse than the last rows of this hardware say"]), sep="\n")
        sys.exit(bool(failed or worse))
    failed = run(benches, rows.RESULTS)
    subprocess.run([sys.executable, "-m", "bench.report"], check=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)


def _compared(path: Path) -> list[str]:
    """What got worse. Only rows of the same hardware are compared, since a ratio depends on it; names the
    others.
    """
    if not (before := rows.RESULTS / path.name).exists():
        return []
    new = report.newest(path)
    for case in sorted({line["case"] for line in report.newest(before)} - {line["case"] for line in new}):
        print(f"{path.stem}: not compared with its last row, since it was not measured now: {case}")
    if not new:
        return []
    old = report.newest(before, hardware=new[0]["hardware"])
    known = {(line["case"], line["peer_name"]) for line in old}
    for line in new:
        if line["ratio"] and (line["case"], line["peer_name"]) not in known:
            print(
                f"{path.stem}: not compared, since there is no row of {line['hardware']}: {line['case']} "
                f"against {line['peer_name']}"
            )
    return regressions(old, new)


if __name__ == "__main__":
    main()
