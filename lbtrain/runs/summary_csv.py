"""summary.csv, with the columns of timm's: a line per evaluation. It is made from the rows of metrics.jsonl
every time, so it has one header, and one line per evaluation, after any number of restarts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lbtrain.runs.files import as_csv

_NOT_METRICS = ("step", "examples", "epoch", "seconds", "replaced_images", "kind")


def summary_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """epoch, train_loss (since the evaluation before), eval_loss, eval_top1, ..., lr. Errors become
    accuracies, as timm has them; all in percent.
    """
    lines, losses, lr = [], [], None
    for row in rows:
        if row["kind"] == "train":
            losses.append(row["loss"])
            lr = row["lr"]
        elif row["kind"] == "eval":
            train_loss = sum(losses) / len(losses) if losses else None
            metrics = dict(_as_timm(name, value) for name, value in row.items() if name not in _NOT_METRICS)
            lines.append({"epoch": row["epoch"], "train_loss": train_loss, **metrics, "lr": lr})
            losses = []
    columns = list(dict.fromkeys(name for line in lines for name in line if name != "lr"))
    return as_csv(lines, [*columns, "lr"])


def _as_timm(name: str, value: float) -> tuple[str, float]:
    if name.endswith("_error"):
        return f"eval_{name.removesuffix('_error')}", 100 - value
    return f"eval_{name}", value
