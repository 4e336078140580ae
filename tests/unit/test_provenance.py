"""Where a number comes from: the commit of the code, whatever results were written since."""

import inspect
import subprocess
from pathlib import Path

from lbtrain.runs.provenance import commit


def git(tree: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *words], cwd=tree, check=True, capture_output=True)


def test_a_copy_outside_a_checkout_is_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LBTRAIN_COMMIT", "1234567")
    assert commit(tmp_path) == "1234567"
    monkeypatch.delenv("LBTRAIN_COMMIT")
    assert commit(tmp_path) == "unknown"


def test_results_that_were_written_leave_the_code_clean(tmp_path, monkeypatch):
    monkeypatch.setenv("LBTRAIN_COMMIT", "1234567")
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/a.csv", "README.md"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    clean = commit(tmp_path)
    assert len(clean) >= 7 and "-dirty" not in clean
    (tmp_path / "results" / "a.csv").write_text("2")
    (tmp_path / "README.md").write_text("2")
    (tmp_path / "untracked.py").write_text("2")
    assert commit(tmp_path) == clean
    (tmp_path / "code.py").write_text("2")
    assert commit(tmp_path) == clean + "-dirty"


def test_the_tree_is_the_whole_checkout_and_no_folder_of_it(tmp_path):
    assert (inspect.signature(commit).parameters["tree"].default / "pyproject.toml").is_file()
    git(tmp_path, "init", "-q")
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") == "unknown"
