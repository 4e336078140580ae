"""The card of an exported model: what it is, how it was made, what it reached, and whether that is what its
recipe expects.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lbtrain.recipe import Recipe, differences
from lbtrain.recipe.expectation import format_outcome
from lbtrain.recipe.tree import as_text
from lbtrain.runs.directory import RunDirectory
from lbtrain.trained.model import TrainedModel

_NAMES = 30


def model_card(trained: TrainedModel, folder: Path) -> str:
    """Markdown, with the fields on top that the Hugging Face hub reads."""
    recipe, summary = trained.recipe, RunDirectory(trained.run_dir).summary() or {}
    timm = recipe.model.library == "timm"
    masks = "mask" in recipe.model.finds
    task = "image-classification" if timm else "image-segmentation" if masks else "object-detection"
    lines = ["---", f"pipeline_tag: {task}", f"library_name: {'timm' if timm else 'lbtrain'}", "---", ""]
    lines += [f"# {recipe.model.name}, trained on {recipe.data.name}", ""]
    lines += ["## Use", "", *_use(trained, folder), "", "## Result", "", *_result(summary, trained), ""]
    names = ", ".join(trained.class_names[:_NAMES])
    more = f" and {len(trained.class_names) - _NAMES} more" if len(trained.class_names) > _NAMES else ""
    lines += ["## Classes", "", f"{len(trained.class_names)}: {names}{more}.", ""]
    lines += ["## Data", "", *_data(trained), "", "## Training", ""]
    lines += ["What differs from lbtrain's defaults; recipe.yaml has every value.", ""]
    lines += ["| key | value |", "|---|---|"]
    lines += [f"| {key} | {as_text(value)} |" for key, _, value in differences(Recipe(), recipe)]
    return "\n".join(lines) + "\n"


def _use(trained: TrainedModel, folder: Path) -> Iterator[str]:
    if trained.recipe.model.library != "timm":
        yield f"Load it with lbtrain: `model.weights={folder.name}`."
        return
    yield "```python"
    yield "import timm"
    if not _is_of_timm(trained.recipe.model.name):
        yield "import lbtrain.nn  # registers the network with timm"
    yield 'model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()'
    yield "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
    yield "```"


def _is_of_timm(name: str) -> bool:
    import timm

    return not timm.model_entrypoint(name.partition(".")[0]).__module__.startswith("lbtrain")


def _result(summary: dict[str, Any], trained: TrainedModel) -> Iterator[str]:
    weights = trained.weights_in_words().capitalize()
    if not summary:
        yield f"{weights} of step {trained.step}. The run has not finished, so there is no result."
        return
    metric = summary["primary_metric"]
    yield f"{weights} of step {trained.step}."
    yield ""
    ranks = f"{summary['world_size']} rank{'s' * (summary['world_size'] > 1)}"
    name = f"ema_{metric['name']}" if trained.averaged else metric["name"]
    score = f"{summary[name]:.4g} %" if name in summary else "not scored"
    yield f"{metric['label']}: {score} at step {summary['step']}, on {ranks}"
    yield f"({summary['engine']}, {summary['hardware']})."
    yield ""
    expectation = summary.get("expectation")
    of = " (of the weights of the last step)" if trained.averaged and not _of_average(expectation) else ""
    yield (
        f"Verdict{of}: {format_outcome(expectation)}."
        if expectation
        else "Verdict: none. The recipe states no published or measured result to compare with."
    )
    versions = ", ".join(f"{name} {text}" for name, text in sorted(summary["versions"].items()))
    yield f"Commit {summary['commit']}; {versions}."


def _of_average(expectation: dict[str, Any] | None) -> bool:
    """Whether a recipe expects something of the average of its weights."""
    return expectation is not None and "ema_" in f"{expectation['metric']} {expectation.get('target', '')}"


def _data(trained: TrainedModel) -> Iterator[str]:
    parts = {key: text for key, text in trained.fingerprint.items() if key.startswith("data: ")}
    yield f"Fingerprint of {trained.recipe.data.name}, as the run compared it between ranks:"
    yield ""
    yield from (f"- {key.removeprefix('data: ')}: {text}" for key, text in sorted(parts.items()))
    inputs = json.dumps(dict(trained.inputs))
    yield f"- inputs (mean and deviation in units of 0 to 255): {inputs}"
