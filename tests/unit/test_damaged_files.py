"""Files that a run reads back, damaged: a message, or a note, and never a traceback or another experiment."""

import errno
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lbtrain import Recipe
from lbtrain.errors import RecipeError, SaveFailed
from lbtrain.recipe.values import mapping_from_yaml
from lbtrain.runs.directory import WRITTEN, RunDirectory
from lbtrain.runs.files import read_whole, write_whole
from lbtrain.runs.rows import read_rows
from tests.faults.damage import BOMB, FILES, RECIPE, a_run, damaged, outcomes
from tools.study.jobs import Job


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("each", [4, pytest.param(150, marks=pytest.mark.slow)])
def test_no_damage_ends_in_a_traceback(tmp_path, name, each, capsys):
    found = outcomes(name, a_run(tmp_path), each, seed=each)
    assert found["traceback"] == 0, found
    assert sum(found.values()) > 9 * each


def test_a_recipe_that_is_taken_for_the_same_has_every_value_of_it(tmp_path):
    """Of the damaged files that pass, none is another experiment: what differs may change on a resume."""
    passed = 0
    for copy in damaged(RECIPE.to_yaml().encode(), random.Random(1), each=20):
        (tmp_path / "recipe.yaml").write_bytes(copy)
        try:
            if RunDirectory(tmp_path).changes(RECIPE):
                continue
        except RecipeError:
            continue
        passed += 1
        assert Recipe.from_yaml(copy.decode()).schedule == RECIPE.schedule
    assert 0 < passed < 60


def test_a_recipe_is_read_as_it_was_written():
    assert Recipe.from_yaml(RECIPE.to_yaml()) == RECIPE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB.decode(), "it has an alias"),
        ("", "no mapping"),
        ("seed: 3", "it lacks batch_size"),
        (
            RECIPE.to_yaml().replace("  detector: mask_rcnn\n", ""),
            "lacks model.detector: it is damaged, or another version of lbtrain wrote it",
        ),
        (RECIPE.to_yaml().replace("cifar_resnet8", "${oc.env:HOME}"), "interpolation is not supported"),
        (RECIPE.to_yaml().replace("seed: 7", "sead: 7"), "did you mean seed"),
        (RECIPE.to_yaml().replace("log_every: 10it", "log_every: \ufeff"), "log_every=: a duration carries"),
        (RECIPE.to_yaml() + "seed: 8\n", "it has a key twice"),
        (RECIPE.to_yaml().replace("seed: 7", "seed: seven"), "takes a whole number"),
    ],
)
def test_what_is_no_recipe_is_said_and_nothing_is_interpolated(tmp_path, text, why):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"recipe\.yaml cannot be read \(.*{re.escape(why)}") as error:
        RunDirectory(tmp_path).changes(RECIPE)
    assert "commit in fingerprint.json" in str(error.value)
    assert os.environ.get("HOME", "/root") not in str(error.value).replace(str(tmp_path), "")


def test_a_run_whose_recipe_is_missing_does_not_go_on_as_another(tmp_path):
    a_run(tmp_path)
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match=r"recipe\.yaml cannot be read .*every checkpoint holds a copy"):
        RunDirectory(tmp_path).open_for(RECIPE.vary(seed=8))


@pytest.mark.parametrize("name", ["[]", "{}", "null", "3", '"seconds_"'])
def test_a_summary_whose_metric_has_no_name_is_written_again(tmp_path, name):
    path = a_run(tmp_path) / "summary.json"
    path.write_text(path.read_text().replace('"name": "top1_error"', f'"name": {name}'))
    assert RunDirectory(tmp_path).summary() is None


def test_a_changed_digit_in_the_plan_is_noticed(tmp_path):
    path = a_run(tmp_path) / "plan.json"
    path.write_text(path.read_text().replace('"world_size": 1', '"world_size": 7'))
    with pytest.raises(RecipeError, match=r"plan\.world_size is 7, and 1 in fingerprint\.json"):
        FILES["plan.json"](tmp_path)


def test_an_alias_bomb_in_an_override_is_rejected_too():
    with pytest.raises(RecipeError, match="args"):
        Recipe().with_overrides(["model.args={a: &a [x, x], b: [*a, *a]}"])
    for text in ("a: &a [x]\nb: *a\n", "a: &a {x: 1}\nb: [*a]\n", "a: &a [*a]\n"):
        with pytest.raises(ValueError, match="alias"):
            mapping_from_yaml(text)


def test_damaged_rows_are_passed_over_and_the_file_is_kept(tmp_path, capsys):
    path = a_run(tmp_path) / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\xff" + lines[1], *lines[2:]]))
    before = path.read_bytes()
    assert FILES["metrics.jsonl"](tmp_path) == "note"
    assert [row["step"] for row in read_rows(path)[0]] == [1, 3, 4, 5]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before
    note = r"damaged lines are skipped \(1, the first is line 2\); the file as it was is \S+damaged"
    assert re.search(note, capsys.readouterr().err)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_in_a_run_directory_is_not_written_through(tmp_path, name):
    target, run_dir = tmp_path / "target", tmp_path / "run"
    run_dir.mkdir()
    (run_dir / name).symlink_to(target)
    with pytest.raises(RecipeError, match=rf"{name} is a link"):
        RunDirectory(run_dir).open_for(RECIPE)
    assert not target.exists()


def test_a_device_is_written_to_and_not_replaced(capfd):
    """`--out /dev/stdout`; whoever runs as root could replace /dev/null for everybody."""
    write_whole(Path("/dev/stdout"), "a report\n")
    assert capfd.readouterr().out == "a report\n"
    write_whole(Path("/dev/null"), "a report\n")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(SaveFailed, match="/dev/full could not be written"):
        write_whole(Path("/dev/full"), "a report\n")


def test_a_link_under_the_name_of_an_unfinished_file_is_not_written_through(tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    for name in ("plan.json", "plan.json.new"):
        (tmp_path / name).symlink_to(target)
    write_whole(tmp_path / "plan.json", "new")
    assert target.read_text() == "untouched"
    assert (tmp_path / "plan.json").read_text() == "new" and not (tmp_path / "plan.json").is_symlink()


@pytest.mark.parametrize("call", ["exists", "is_symlink"])
def test_a_run_directory_that_is_closed_to_this_user_is_said(tmp_path, monkeypatch, call):
    def refused(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, call, refused)
    with pytest.raises(RecipeError, match=r"run_dir=.* cannot be used: Permission denied\. Choose another"):
        RunDirectory(tmp_path / "run").open_for(RECIPE)


def test_a_lock_that_is_a_link_is_rejected(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(RecipeError, match="cannot be written to"):
        RunDirectory(tmp_path).lock(patience=0)
    assert not (tmp_path / "target").exists()


def test_what_the_disk_does_not_take_names_the_file(tmp_path):
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(SaveFailed, match=r"plan\.json could not be written \(.*directory.*\): make room"):
        write_whole(tmp_path / "plan.json", "new")


def test_a_file_beyond_its_bound_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 11)
    assert read_whole(tmp_path / "file", most=11) == b"x" * 11
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_whole(tmp_path / "file", most=10)


def test_the_owner_of_a_lock_is_named_whatever_stands_there(tmp_path):
    owner = RunDirectory(tmp_path).lock()
    owner.truncate(0)
    os.write(owner.fileno(), b"\xff\x1b[2J" + b"x" * 10_000)
    ask = "import sys; from pathlib import Path; from lbtrain.runs.directory import RunDirectory; "
    ask += "RunDirectory(Path(sys.argv[1])).lock(patience=0)"
    done = subprocess.run(
        [sys.executable, "-c", ask, str(tmp_path)], capture_output=True, text=True, check=False
    )
    owner.close()
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "is in use by" in last and len(last) < 600 and "\x1b" not in last


@pytest.mark.parametrize(("content", "ended"), [(b'{"seconds": 1}', True), (b'{"seco', False), (b"", False)])
def test_a_study_repeats_a_run_whose_summary_is_damaged(tmp_path, content, ended):
    (tmp_path / "summary.json").write_bytes(content)
    assert Job("recipe.py", (), str(tmp_path)).ended == ended
