"""One short run of each method on real data, the whole of it, that has to learn: scikit-learn's digits, 357
images scored.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from lbtrain.run import run

FOLDER = Path(__file__).parents[2] / "recipes"

# A recipe, what shortens it, and the error in percent that it has to stay below: about twice what a run on
# another seed ended with, or more, for a score of 357 images moves by a point between seeds. Guessing is 90.
METHODS = {
    "digits": ([], 4.0),
    "digits_720": ([], 6.0),
    "digits_720_no_warmup": ([], 6.0),
    "digits_720_lars": ([], 6.0),
    "digits_720_lamb": ([], 6.0),
    "digits_720_adamw": ([], 6.0),
    "digits_720_nesterov": ([], 6.0),
    "digits_720_muon": ([], 6.0),
    "digits_720_regime": (["batch_size=96"], 4.0),
    "digits_batch_growth": ([], 4.0),
    "digits_small_batch": (["duration=5ep"], 10.0),
    "digits_absa": ([], 6.0),
    "digits_keskar": (["duration=4ep"], 8.0),
    "digits_keskar_144": ([], 8.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns(name, tmp_path, monkeypatch):
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.syspath_prepend(str(FOLDER / "digits"))
    words, bound = METHODS[name]
    recipe = runpy.run_path(str(FOLDER / f"digits/{name}.py"))["recipe"]
    try:
        shortened = recipe.with_overrides(
            [*words, "evaluate_every=1dur", "checkpoint.every=1dur", "engine=ddp", f"run_dir={tmp_path}"]
        )
        summary = run(shortened, name, on_screen=False)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for module in [module for module in sys.modules if (FOLDER / f"digits/{module}.py").exists()]:
            del sys.modules[module]
    assert summary["top1_error"] < bound
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    if name in ("digits_batch_growth", "digits_absa"):
        batches = [row["batch_size"] for row in rows if row["kind"] == "train"]
        assert batches[0] == 32 and max(batches) > 32 and batches == sorted(batches)


def test_every_method_of_the_digits_has_its_run():
    unlike = {"digits_720_unscaled"}  # the arm that is meant not to learn
    assert {path.stem for path in FOLDER.glob("digits/digits*.py")} - unlike == set(METHODS)
