"""The report of a study says what the run directories hold, and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbtrain.tasks import headline_of
from tools.study.jobs import WORKER
from tools.study.publish import block, measured, with_block, with_measured
from tools.study.report import Arm, markdown_table, provenance, verdicts, write_report
from tools.study.worker import load_recipe

ROOT = Path(__file__).parents[3]
REFERENCE, LARGE = [1.0, 2.0, 3.0], [51.0, 52.0, 53.0]


ERROR = {"name": "top1_error", "label": "top-1 error", "higher_is_better": False}
PRECISION = {"name": "mask_ap", "label": "mask AP", "higher_is_better": True}


def arm(tmp_path: Path, name: str, errors: list[float], headline=ERROR) -> Arm:
    recipe = tmp_path / f"{name}.py"
    recipe.write_text(f'"""{name.title()} <in> words.\n\nRun  python {name}.py\n"""\nrecipe = None\n')
    for seed, error in enumerate(errors):
        folder = tmp_path / name / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(
            json.dumps(
                {
                    "headline": headline,
                    headline["name"]: error,
                    "seconds": 1.0,
                    "commit": "abc",
                    "hardware": "2 cores",
                    "versions": {"torch": "2.0"},
                }
            )
        )
        (folder / "plan.json").write_text(json.dumps({"batch_size": 32, "learning_rate": {"peak": 0.1}, "total_steps": 900}))
        rows = [{"kind": "train", "epoch": 1.0, "loss": 0.5}, {"kind": "eval", "epoch": 1.0, headline["name"]: error}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Arm.read(recipe, tmp_path, list(range(len(errors))))


def test_mean_and_standard_deviation_of_the_seeds(tmp_path):
    reference = arm(tmp_path, "reference", REFERENCE)
    assert (reference.mean, reference.std) == (2.0, 1.0)
    assert "2.00 ± 1.00" in markdown_table([reference])


def test_the_verdict_names_the_gap_with_two_standard_errors(tmp_path):
    arms = [arm(tmp_path, "reference", REFERENCE), arm(tmp_path, "large", LARGE), arm(tmp_path, "same", [1.5, 2.0, 3.0])]
    large, same = verdicts(arms)
    # Both standard deviations are 1: two standard errors of the difference are 2 sqrt(1/3 + 1/3).
    assert large == "large loses 50.00 ± 1.63 points against reference"
    assert same.endswith("no difference that these seeds can show")


def test_more_is_better_where_the_headline_says_so(tmp_path):
    arms = [arm(tmp_path, "reference", LARGE, PRECISION), arm(tmp_path, "worse", REFERENCE, PRECISION)]
    assert verdicts(arms) == ["worse loses 50.00 ± 1.63 points against reference"]
    assert "mask AP %, mean ± std" in markdown_table(arms)
    write_report(arms, tmp_path, title="A title", command="x")
    assert json.loads((tmp_path / "study.json").read_text())["arms"][0]["mask_ap"] == LARGE


def test_the_page_is_self_contained_and_escapes_text(tmp_path):
    write_report([arm(tmp_path, "reference", REFERENCE), arm(tmp_path, "large", LARGE)], tmp_path, title="A <b> title", command="x")
    page = (tmp_path / "study.html").read_text()
    assert "Reference &lt;in&gt; words." in page and "A &lt;b&gt; title" in page
    assert "src=" not in page.replace('src="data:image/png;base64,', "") and "<script" not in page
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_the_origin_is_that_of_the_runs(tmp_path):
    reference, other = arm(tmp_path, "reference", REFERENCE), arm(tmp_path, "other", LARGE)
    assert provenance([reference, other], "command").endswith("; commit abc on 2 cores; torch 2.0")
    path = tmp_path / "other/seed0/summary.json"
    path.write_text(path.read_text().replace("abc", "def"))
    later = Arm.read(tmp_path / "other.py", tmp_path, [0, 1, 2])
    assert {"abc", "def"} <= set(provenance([reference, later], "command").replace(";", " ").split())


def test_publishing_replaces_only_what_stands_between_the_markers():
    text = "before\n<!-- x -->\nold\n<!-- /x -->\nafter"
    assert with_block(text, "x", "new \\1") == "before\n<!-- x -->\nnew \\1\n<!-- /x -->\nafter"
    with pytest.raises(ValueError, match="markers"):
        with_block("no markers", "x", "new")


def studies() -> dict[str, dict]:
    read = {path.stem: json.loads(path.read_text()) for path in (ROOT / "results").glob("*.json")}
    return {name: data for name, data in read.items() if "arms" in data}


def test_recipes_state_what_was_measured():
    """Every contract that quotes a study quotes it as it stands there, and every arm of one has been measured."""
    quoted = 0
    for name, study in studies().items():
        for arm in study["arms"]:
            path = ROOT / "recipes" / f"{arm['recipe']}.py"
            contract = path.read_text()
            assert "Measured   not yet" not in contract, f"{path.name}: python -m tools.study.publish"
            if f"results/{name}.json" in contract:
                assert f"Measured   {measured(arm, headline_of(load_recipe(path)).label, study, name)}\n" in contract
                quoted += 1
    assert quoted >= 5


def test_what_was_measured_is_written_where_nothing_or_the_same_result_stood():
    study = {"provenance": "python -m tools.study x.py --seeds 3 --first-seed 1 --launcher deepspeed --ranks 2; 2026-01-01; commit abc"}
    new = measured({"mean": 1.234, "std": 0.5, "n": 3}, "top-1 error", study, "x")
    assert new == "top-1 error 1.23 ± 0.50 % (n=3, seeds 1 to 3, 2 ranks under deepspeed; results/x.json)"
    for before in ("not yet", "top-1 error 9.99 ± 0.00 % (n=1, one process; results/x.json)"):
        assert with_measured(f"Run  a\nMeasured   {before}\n", new, "x") == f"Run  a\nMeasured   {new}\n"
    other = "Measured   top-1 error 9.99 ± 0.00 % (n=1, one process; results/y.json)\n"
    assert with_measured(other, new, "x") == other


def test_a_page_in_a_folder_finds_its_picture():
    study = {"table": "|", "verdicts": [], "provenance": "command"}
    assert "(docs/x.png)" in block(study, "x") and "(x.png)" in block(study, "x", ROOT / "docs" / "methods.md")


def test_the_readme_shows_the_published_study():
    root = Path(__file__).parents[3]
    study = json.loads((root / "results/digits_demo.json").read_text())
    readme = (root / "README.md").read_text()
    assert study["table"] in readme and study["provenance"] in readme
    assert all(line in readme for line in study["verdicts"])


def test_the_worker_starts_from_any_folder_by_its_path_alone(tmp_path):
    """As launchers start it, on hosts where only lbtrain is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "jobs.json").write_text("[]")
    started = subprocess.run(
        [sys.executable, WORKER, "jobs.json"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert started.returncode == 0, started.stderr
