"""Ranks that were not started alike end before the first step, all of them, with one message."""

import importlib.metadata
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from lab.ranks import run_on_ranks
from lbtrain import Recipe
from lbtrain.errors import LaunchError, RecipeError
from lbtrain.runs import fingerprint
from lbtrain.runs.best import BestCheckpoint
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.fingerprint import notes_on_resume
from tests.distributed.runs import SMALL, train_on


def _error(changes: dict[str, Any], of_rank_1: dict[str, Any], run_dir: str) -> str:
    from lbtrain import Recipe
    from lbtrain.run import run

    mine = of_rank_1 if dist.get_rank() == 1 else {}
    recipe = Recipe().vary(**SMALL).vary(**changes, run_dir=run_dir).vary(**mine)
    try:
        run(recipe, "small")
    except LaunchError as error:
        assert error.exit_code == 3
        return str(error)
    return "trained"


DIFFERENCES = {
    "schedule.base_lr": (dict(schedule=dict(base_lr=0.2)), "0.05", "0.2"),
    "optimizer.weight_decay": (dict(optimizer=dict(weight_decay=0.5)), "0.0001", "0.5"),
    "optimizer.name": (dict(optimizer=dict(name="lars")), "sgd", "lars"),
    "batch_size": (dict(batch_size=128), "64", "128"),
    "bn_batch_size": (dict(bn_batch_size=7), "8", "7"),
    "seed": (dict(seed=1), "0", "1"),
    "precision": (dict(precision="bf16"), "fp32", "bf16"),
    "duration": (dict(duration="30it"), "20it", "30it"),
    "evaluate_every": (dict(evaluate_every="3it"), "10it", "3it"),
    "model.name": (dict(model=dict(name="cifar_resnet20")), "cifar_resnet8", "cifar_resnet20"),
    "engine": (dict(engine="deepspeed"), "ddp", "deepspeed"),
    "optimizer.momentum": (dict(optimizer=dict(momentum=0.5)), "0.9", "0.5"),
}


@pytest.mark.parametrize("key", sorted(DIFFERENCES))
def test_another_recipe_on_one_rank_is_named_on_all(tmp_path, key):
    other, mine, theirs = DIFFERENCES[key]
    errors = run_on_ranks(2, _error, dict(engine="ddp"), other, str(tmp_path / "run"), timeout=60)
    for error in errors:
        assert f"{key} is {mine} on rank 0 (" in error and f"and {theirs} on rank 1 (" in error
    assert not list(tmp_path.rglob("*"))  # nothing was started


def _continued(run_dir: str, aside: str) -> int | str:
    """The step at which a run ends whose last checkpoint is written just before rank 0 has the lock."""
    from lbtrain import Recipe
    from lbtrain.run import run

    recipe = Recipe().vary(**SMALL).vary(**SHORT, run_dir=run_dir)
    lock = RunDirectory.lock

    def take_over(self: RunDirectory) -> Any:
        time.sleep(0.5)
        for path in sorted(Path(aside).iterdir(), reverse=True):
            path.rename(Path(run_dir) / "checkpoints" / path.name)
        return lock(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "lock", take_over)
        try:
            return run(recipe, "small", on_screen=False)["step"]
        except LaunchError as error:
            return str(error)


SHORT = dict(engine="ddp", duration="2it", schedule=dict(warmup="0it"), checkpoint=dict(every="1it"))


def test_no_rank_reads_the_run_directory_before_the_lock_is_had(tmp_path):
    """The job before may still write its last checkpoint."""
    assert run_on_ranks(2, _error, SHORT, {}, str(tmp_path / "run")) == ["trained"] * 2
    (tmp_path / "aside").mkdir()
    (tmp_path / "run/summary.json").unlink()
    for path in (tmp_path / "run/checkpoints").glob("step_000000002.*"):
        path.rename(tmp_path / "aside" / path.name)
    assert run_on_ranks(2, _continued, str(tmp_path / "run"), str(tmp_path / "aside")) == [2, 2]


def _with_another_best(run_dir: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BestCheckpoint, "_read", lambda self: 50.0 + dist.get_rank())
        return _error(SHORT | dict(checkpoint=dict(best="top1_error")), {}, run_dir)


def test_another_best_value_on_one_rank_is_named(tmp_path):
    """One rank alone would save a checkpoint for its best evaluation."""
    for error in run_on_ranks(2, _with_another_best, str(tmp_path / "run")):
        assert "best value so far is 50.0 on rank 0 (" in error and "and 51.0 on rank 1 (" in error


def test_loader_processes_are_a_hosts_own(tmp_path):
    other = dict(data=dict(workers=1))
    short = dict(engine="ddp", duration="1it", evaluate_every="1it", schedule=dict(warmup="0it"))
    assert run_on_ranks(2, _error, short, other, str(tmp_path / "run")) == ["trained"] * 2


def _folder(root: Path, count: int = 64) -> str:
    for split in ("train", "val"):
        for index in range(count):
            folder = root / split / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), index, np.uint8)).save(folder / f"{index}.png")
    return str(root)


def test_another_number_of_images_on_one_rank_is_named(tmp_path):
    photos = dict(name="imagefolder", image_size=32, augmentation="none", root=_folder(tmp_path / "a"))
    other = dict(data=dict(root=_folder(tmp_path / "b", 63)))
    changes = dict(engine="ddp", batch_size=16, duration="2it", data=photos, schedule=dict(warmup="1it"))
    for error in run_on_ranks(2, _error, changes, other, str(tmp_path / "run"), timeout=60):
        assert "data: eval.examples is 64 on rank 0" in error and "and 63 on rank 1" in error


def _compare(values: list[dict[str, str]]) -> tuple[str, float]:
    import time

    started = time.perf_counter()
    try:
        fingerprint.check_same_on_all_ranks(values[dist.get_rank()])
    except LaunchError as error:
        return str(error), 0.0
    return "", time.perf_counter() - started


def test_the_odd_one_of_four_ranks_is_named():
    same, other = dict(commit="abc", seed="0"), dict(commit="abd", seed="0", extra="1")
    errors = [error for error, _ in run_on_ranks(4, _compare, [same, same, other, same])]
    assert len(set(errors)) == 1
    assert "commit is abc on rank 0 (" in errors[0] and "abd on rank 2 (" in errors[0]
    assert "extra is not there on rank 0" in errors[0] and "seed" not in errors[0]


def test_equal_ranks_exchange_one_digest_each():
    assert all(error == "" for error, _ in run_on_ranks(4, _compare, [dict(commit="abc")] * 4))


def test_the_fingerprint_stands_in_the_run_directory_and_in_every_checkpoint(tmp_path):
    run = train_on(2, tmp_path / "run", engine="ddp")
    written = json.loads((run.run_dir / "fingerprint.json").read_text())
    assert written["batch_size"] == "64"
    assert written["version of torch"] == importlib.metadata.version("torch")
    assert written["data: train.examples"] == "1440" and len(written["data: train.labels"]) == 16
    checkpoints = list((run.run_dir / "checkpoints").glob("step_*.pt"))
    assert len(checkpoints) == 2
    for path in checkpoints:
        assert torch.load(path, weights_only=True)["fingerprint"] == written


def test_what_a_resumed_run_says():
    before = {"commit": "a", "version of torch": "2", "data: train.labels": "1", "engine": "ddp"}
    assert notes_on_resume(before, before) == []
    assert notes_on_resume({}, before) == []  # a checkpoint of an older version
    assert notes_on_resume(before, before | {"data: train.bytes": "1"}) == []  # of another one
    assert notes_on_resume(before, before | {"commit": "b", "engine": "deepspeed"}) == [
        "note: commit was a, is b since the checkpoint"
    ]
    with pytest.raises(RecipeError, match=r"data: train.labels was 1, is 2.*restore them") as caught:
        notes_on_resume(before, before | {"data: train.labels": "2"})
    assert caught.value.exit_code == 2
    scored = before | {"data: eval.bytes": "1"}
    assert notes_on_resume(scored, scored | {"data: eval.bytes": "2"}) == [
        "note: data: eval.bytes was 1, is 2 since the checkpoint"
    ]


def test_a_recipe_file_and_its_modules_are_compared_and_packages_are_not(tmp_path):
    for name in ("recipe.py", "models.py", "site-packages/torch.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pass\n")

    def found() -> dict[str, str]:
        files = {"__main__": "recipe.py", "models": "models.py", "torch": "site-packages/torch.py"}
        own = {name: SimpleNamespace(__file__=str(tmp_path / path)) for name, path in files.items()}
        return fingerprint._own_code({"json": json, "fingerprint": fingerprint, "odd": object(), **own})

    before = found()
    assert set(before) == {"source code of recipe.py", "source code of models"}
    (tmp_path / "models.py").write_text("pass \n")
    changed = before["source code of models"], found()["source code of models"]
    assert changed[0] != changed[1]
    assert notes_on_resume(before, found()) == [
        f"note: source code of models was {changed[0]}, is {changed[1]} since the checkpoint"
    ]
    assert {"version of pillow", "version of simplejpeg"} < set(fingerprint.job_fingerprint(Recipe(), "ddp"))


def test_the_code_is_compared_where_there_is_no_commit(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("pass\n")
    assert fingerprint._code(tmp_path / "a") == fingerprint._code(tmp_path / "b")
    (tmp_path / "b" / "x.py").write_text("pass \n")
    assert fingerprint._code(tmp_path / "a") != fingerprint._code(tmp_path / "b")
