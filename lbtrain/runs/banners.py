"""What a run prints before its first step and after its last: what runs where, and where everything lies."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lbtrain.plan.plan import Plan
from lbtrain.runs.provenance import hardware


def start_banner(plan: Plan, classes: int, run_dir: Path) -> Iterator[str]:
    """Devices, model, parameters, images, classes, run directory."""
    recipe = plan.recipe
    where = f"{plan.world_size} rank{'s' * (plan.world_size > 1)} under {plan.engine}"
    yield f"{'devices':<28} {where}; this host has {hardware()}"
    yield f"{'model':<28} {recipe.model.name}, {plan.statistics.parameters:,} parameters"
    yield f"{'images':<28} {plan.train_examples:,} of {recipe.data.name}, {classes:,} classes"
    yield f"{'run directory':<28} {run_dir}"


def end_banner(run_dir: Path, summary: Mapping[str, Any]) -> Iterator[str]:
    """The result, the files of the run, and the commands that go on from here."""
    metric = summary["primary_metric"]
    result = f"{metric['label']} {summary[metric['name']]:.4g} % " if metric["name"] in summary else ""
    yield f"Finished: {result}after step {summary['step']:,}, in {summary['seconds']:,.0f} s."
    files = {
        "summary.json": "result and provenance",
        "metrics.jsonl": "every logged row",
        "summary.csv": "a line per evaluation",
        "checkpoints": "the newest" + " and the best" * (run_dir / "checkpoints/best.pt").exists(),
        "tensorboard": f"tensorboard --logdir {run_dir / 'tensorboard'}",
        "pictures": "what was found",
    }
    for name, meaning in files.items():
        if (run_dir / name).exists():
            yield f"  {run_dir / name}: {meaning}"
    yield f"Next: lbtrain eval {run_dir}, lbtrain predict {run_dir} IMAGE, lbtrain export {run_dir}"
