"""Error against batch size: what was measured here, beside what the papers print for ImageNet.

    python -m tools.study.large_batch          draws docs/large_batch.png

Measured panels are the published sweeps of results/. The others are tools/study/published.csv:
numbers that their sources print, none of them run here, and on another data set; what can be compared is
where a curve leaves its flat part.
"""

import csv
import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..kit.charts import batch_axis
from ..kit.publish import ROOT
from .curves import Curve, Means, curve_of, draw, measured, sizes_of

PUBLISHED = Path(__file__).with_name("published.csv")
PICTURE = ROOT / "docs" / "large_batch.png"


def published(path: Path = PUBLISHED) -> dict[str, list[Curve]]:
    """Curves by model."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    points: dict[tuple[str, str, str], list[Means]] = {}
    for row in rows:
        key = row["model"], row["arm"], row["source"]
        std = float(row["std"]) if row["std"] else None
        points.setdefault(key, []).append((int(row["batch_size"]), float(row["top1_error"]), std))
    found: dict[str, list[Curve]] = {}
    for (model, arm, source), own in points.items():
        found.setdefault(model, []).append(curve_of(arm, own, source))
    return found


def draw_panels(ours: dict[str, list[Curve]], theirs: dict[str, list[Curve]], path: Path) -> None:
    """One panel a data set and model: ours in the upper row, published ones below on grey, each labelled as
    what it is.
    """
    columns = max(len(ours), len(theirs))
    figure = Figure(figsize=(4.6 * columns, 8), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for row, (panels, label) in enumerate(
        ((ours, "measured here"), (theirs, "published, not measured here"))
    ):
        for axes in grid[row][len(panels) :]:
            axes.set_axis_off()
        for axes, (title, curves) in zip(grid[row], panels.items(), strict=False):
            _panel(axes, curves)
            if panels is ours:  # one network each: no gap looks larger than it is
                axes.set_ylim(bottom=0)
            axes.set_title(f"{textwrap.fill(title, 44)}\n({label})", fontsize=10)
            axes.set_facecolor("white" if panels is ours else "#f2f2f2")
    figure.supylabel("top-1 error (%), mean ± 2 standard deviations")
    figure.savefig(path, dpi=110)


def _panel(axes: Any, curves: list[Curve]) -> None:
    draw(axes, curves)
    sizes = sizes_of(curves)
    # Where two are close, there is room for the name of the larger.
    crowded = {size for size, after in itertools.pairwise(sizes) if after < 1.6 * size}
    names = ["" if size in crowded else _name(size) for size in sizes]
    batch_axis(axes, sizes, names)
    axes.tick_params("x", labelsize=8)
    axes.set_xlabel("images per step")
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _name(size: int) -> str:
    return f"{size // 1024}k" if size % 1024 == 0 else f"{size}"


def main() -> None:
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "results").glob("*.json"))
    ]
    sweeps = [
        result
        for result in found
        if all({"arm", "mean", "top1_error"} <= row.keys() for row in result.get("rows", [{}]))
        and len({row["batch_size"] for row in result["rows"]}) > 1
    ]
    theirs = {f"{model}, ImageNet": curves for model, curves in published().items()}
    draw_panels({sweep["title"]: measured(sweep["rows"]) for sweep in sweeps}, theirs, PICTURE)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
