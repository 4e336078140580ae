"""What the sources claim, compared with the results of this repository.

    python -m tools.study.claims          prints the table of docs/results.md, which bench.report writes

A row of claims.csv compares two points of published results: the error of `arm` at `batch_size` less that of
`reference` at its own, or, where `measure` names one, their sharpness. Both are of `result`, unless the
reference was measured by itself (`reference_result`). The claim says that the difference is at most (<=) or
above (>) so much.
The interval of the difference is of 95% (Welch's t). A claim is held or not held where the whole interval
says so, and open where the bound lies within it, or where a side has one run only.
"""

import csv
import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from lbtrain.recipe.findings import held

from ..kit.publish import ROOT
from ..kit.tables import NOT_MEASURED
from .arm import deviation, interval_of

CLAIMS = Path(__file__).with_name("claims.csv")
COMMANDS = {
    "curve": "lbtrain study sweep cifar10/resnet8_4k cifar10/resnet8_4k_sgd cifar10/resnet8_4k_lars "
    "cifar10/resnet8_4k_lamb cifar10/resnet8_4k_adamw cifar10/resnet8_4k_muon --batch-sizes 128,4096 "
    "--seeds 3 --out runs/cifar10_curve",
    "methods": "lbtrain study cifar10/resnet8 cifar10/resnet8_batch_growth --launcher python --ranks 1 "
    "--seeds 3 --out runs/cifar10_methods",
    "regime": "lbtrain study cifar10/resnet8 cifar10/resnet8_1k cifar10/resnet8_1k_sqrt "
    "cifar10/resnet8_1k_ghost_bn cifar10/resnet8_1k_regime duration=4ep --launcher python --ranks 1 "
    "--seeds 3 --out runs/cifar10_regime",
    "absa": "lbtrain study cifar10/resnet8_absa --launcher python --ranks 1 --seeds 3 "
    "--out runs/cifar10_absa",
    "small_batch": "lbtrain study cifar10/resnet8_small_batch --launcher python --ranks 1 --seeds 3 "
    "--out runs/cifar10_small_batch",
}
"""What measures a result that is not there yet."""


class Side(NamedTuple):
    """The runs of one side: mean and standard deviation of their error in percent, or of their sharpness."""

    mean: float
    std: float
    n: int


def table() -> str:
    """Every claim with what the newest results say of it, in Markdown."""
    with CLAIMS.open(newline="", encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    found = [(row, judged(row)) for row in claims]
    lines = [
        "| claim | source | our setting | compared | held if | difference (n) | outcome |",
        "|---|---|---|---|---|---|---|",
        *[
            "| "
            + " | ".join(
                [row["claim"], row["source"], row["setting"], _compared(row), row["difference"], *cells]
            )
            + " |"
            for row, cells in found
        ],
    ]
    missing = dict.fromkeys(row["command"] for row, cells in found if cells[1] == NOT_MEASURED)
    commands = [f"    {COMMANDS[name]}" for name in missing if name]
    return "\n".join([*lines, *(["", "To measure the missing rows:", "", *commands] if commands else [])])


def _compared(claim: dict[str, str]) -> str:
    """Both sides, in words."""
    names = [claim["arm"], claim["reference"]]
    if claim["measure"]:  # its arms are named by their folders, which end in the batch size
        names = [name.partition("/")[0] for name in names]
    sizes = [f"{int(claim[key]):,}" for key in ("batch_size", "reference_batch_size")]
    if names[0] == names[1]:
        text = f"{names[0]}: {sizes[0]} with {sizes[1]}"
    elif sizes[0] == sizes[1]:
        text = f"at {sizes[0]}: {names[0]} with {names[1]}"
    else:
        text = f"{names[0]} at {sizes[0]} with {names[1]} at {sizes[1]}"
    return text + (f"; {claim['measure']}" if claim["measure"] else "")


def judged(claim: dict[str, str], folder: Path = ROOT / "results") -> tuple[str, str]:
    """The difference and the outcome, in words."""
    result = _result(claim["result"], folder)
    measure = claim["measure"]
    arm = _side(result, claim["arm"], int(claim["batch_size"]), measure)
    other = _result(claim["reference_result"], folder) if claim["reference_result"] else result
    reference = _side(other, claim["reference"], int(claim["reference_batch_size"]), measure)
    if arm is None or reference is None:
        return "-", NOT_MEASURED
    if math.inf in (arm.mean, reference.mean):
        return "diverged", held(claim["difference"], arm.mean - reference.mean, 0.0)  # NaN where both did
    gap, error = arm.mean - reference.mean, interval_of((arm.std, arm.n), (reference.std, reference.n))
    spread = "" if error is None else f" ± {error:.2f}"
    outcome = held(claim["difference"], gap, math.inf if error is None else error)
    return f"{gap:+.2f}{spread} ({arm.n}, {reference.n})", outcome


def _result(name: str, folder: Path) -> list[dict[str, Any]]:
    """The points of results/NAME.json, empty where it is not there yet."""
    path = folder / f"{name}.json"
    if not path.exists():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    if "rows" in data:
        return [*data["rows"]]
    # A study's arms are its recipes; those of a search are the best trial of each, on other seeds.
    return [{**row, "arm": row.get("arm", row["recipe"]).partition("/trial")[0]} for row in data["arms"]]


def _side(rows: list[dict[str, Any]], arm: str, batch_size: int, measure: str) -> Side | None:
    """The point of an arm; its error is infinite if any of its runs diverged, and None if it has no point."""
    for row in rows:
        if (row["arm"], row["batch_size"]) == (arm, batch_size):
            if measure:
                values = row["measures"][measure]
                return Side(statistics.mean(values), deviation(values), len(values))
            return Side(math.inf if row["diverged"] else row["mean"], row["std"], row["n"])
    return None


if __name__ == "__main__":
    print(table())
