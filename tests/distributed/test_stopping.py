"""A signal to one rank stops all of them after the same step, saved; the same command then goes on as if
nothing had been.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

DIGITS = Path(__file__).parents[2] / "recipes/digits/digits.py"
WORDS = ["engine=ddp", "duration=120it", "log_every=1it", "evaluate_every=1dur", "checkpoint.every=1dur"]


def torchrun(folder: Path) -> subprocess.Popen[str]:
    """Two ranks of the digits recipe, as a user starts them; a log file per rank beside the run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    return subprocess.Popen(
        [*command, str(DIGITS), *WORDS, "run_dir=run"],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps(folder: Path) -> int:
    path = folder / "run/metrics.jsonl"
    return path.read_text().count('"kind": "train"') if path.exists() else 0


def rank_of(pid: int) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((word[5:].decode() for word in variables if word.startswith(b"RANK=")), None)


def ranks(launcher: subprocess.Popen[str]) -> dict[str, int]:
    """Rank -> process id of the launcher's children."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return {rank: int(pid) for pid in children if (rank := rank_of(int(pid))) is not None}


def wait_for_steps(launcher: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while steps(folder) < count:
        assert launcher.poll() is None, launcher.stdout.read()
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.01)


def newest_checkpoint(folder: Path) -> dict:
    return torch.load(max((folder / "run/checkpoints").glob("step_*.pt")), weights_only=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in /proc")
@pytest.mark.parametrize(("number", "signalled"), [(signal.SIGTERM, "1"), (signal.SIGINT, "0")])
def test_a_signal_to_one_rank_saves_all_and_the_same_command_goes_on(tmp_path, number, signalled):
    folders = {name: tmp_path / name for name in ("straight", "stopped")}
    for folder in folders.values():
        folder.mkdir()
    launcher = torchrun(folders["stopped"])
    wait_for_steps(launcher, folders["stopped"], 5)
    os.kill(ranks(launcher)[signalled], number)
    said = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 1
    assert re.search(r"exitcode *: *75", said), said
    assert re.search(
        r"^The run was stopped by a signal after step \d+\. "
        r"Everything is saved, and the same command continues from there\.$",
        said,
        re.M,
    ), said
    stopped_at = int(re.search(r"stopped by a signal after step (\d+)", said)[1])
    assert newest_checkpoint(folders["stopped"])["progress"]["step"] == stopped_at < 120
    assert not (folders["stopped"] / "run/summary.json").exists()

    for folder in folders.values():
        done = torchrun(folder)
        said = done.communicate(timeout=240)[0]
        assert done.returncode == 0, said
    assert f"continuing from step {stopped_at}" in said
    _assert_same_run(*folders.values())


def _assert_same_run(first: Path, second: Path) -> None:
    weights, expected = newest_checkpoint(second), newest_checkpoint(first)
    assert weights["progress"] == expected["progress"]
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(weights["state_dict"][name], tensor), name
    losses = [
        [json.loads(line)["loss"] for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        for folder in (first, second)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 121
