"""What becomes of a command, or of a run, whose words cannot be printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbtrain.runs.checkpoint import checkpoint_paths

ROOT = Path(__file__).parents[2]
CLI = f"{sys.executable} -m lbtrain"
SHORT = "duration=3it batch_size=32 bn_batch_size=32 evaluate_every=3it log_every=1it"


def in_shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["plan digits/digits --gpus 2", "recipes"])
@pytest.mark.parametrize(
    ("to", "code", "said"),
    [
        ("> /dev/full", 7, "error: standard output could not be written: No space left on device\n"),
        ("| true", 141, ""),
        (">&-", 0, ""),
    ],
)
def test_a_command_whose_answer_cannot_be_printed_says_so(tmp_path, command, to, code, said):
    done = in_shell(f"{CLI} {command} {to}", tmp_path)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("to", ["> /dev/full 2>&1", "2>&1 | true", ">&- 2>&-"])
def test_a_run_does_without_its_words(tmp_path, to):
    done = in_shell(f"{CLI} train digits/digits {SHORT} run_dir={tmp_path}/run {to}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/summary.json").exists() and checkpoint_paths(tmp_path / "run/checkpoints")


def test_an_error_that_nobody_reads_keeps_its_code(tmp_path):
    assert in_shell(f"{CLI} train digits/digits batch_size=0 > /dev/full 2>&1", tmp_path).returncode == 2
