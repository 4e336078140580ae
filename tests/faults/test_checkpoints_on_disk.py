"""Checkpoints where the disk, the power or a second job fails: what was good stays good, and what went wrong
is said.
"""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lbtrain.errors import RecipeError
from lbtrain.runs import directory
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.progress import Progress

ROOT = Path(__file__).parents[2]
KILLS = 200


def state(step: int) -> dict:
    weight = torch.full((256, 64), float(step))
    return {
        "model": {"weight": weight},
        "optimizer": {"weight": {"momentum_buffer": -weight}},
        "loss_scale": 1.0,
        "loss_scale_steps": 0,
    }


def save_for_ever(run_dir: Path, first: int, acknowledge: int) -> None:
    checkpoints = Checkpoints(run_dir, keep=2)
    for step in range(first, first + 10**6):
        checkpoints.save(state(step), Progress(32 * step, step), "seed: 0\n")
        checkpoints.wait()
        os.write(acknowledge, f"{step}\n".encode())


@pytest.mark.slow
def test_no_kill_during_a_save_loses_more_than_that_save(tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    generator, last = random.Random(seed), 0
    for kill in range(KILLS):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            try:
                save_for_ever(tmp_path, last + 1, writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as acknowledged:
            first = (
                acknowledged.readline() if kill % 4 else ""
            )  # every fourth may fall into the first save of its process
            time.sleep(generator.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done = [int(line) for line in [first, *acknowledged.readlines()] if line.endswith("\n")]
        found = Checkpoints(tmp_path, keep=2).newest()
        least = max([last, *done])
        if found is None:
            assert least == 0
            continue
        assert least <= found.progress.step <= least + 1, (seed, kill)
        assert found.skipped == [], (seed, kill)
        assert torch.equal(found.state["model"]["weight"], state(found.progress.step)["model"]["weight"]), (
            seed,
            kill,
        )
        last = found.progress.step
    assert last > KILLS / 2


def run_on_a_small_disk(tmp_path: Path, mount: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The digits recipe with its run directory on a file system that is mounted for it alone."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("mounting a small disk needs root and unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    recipe = [
        sys.executable,
        str(ROOT / "recipes/digits/digits.py"),
        f"run_dir={disk}/run",
        "log_every=1it",
        "evaluate_every=1dur",
        *words,
    ]
    script = (
        f'mount -t tmpfs -o {mount} disk "$0" && mkdir -p "$0/run" && {{ test -z "$1" || mount -o '
        f'remount,ro "$0"; }} && shift && '
    )
    script += '"$@"; code=$?; ls "$0/run/checkpoints" 2>/dev/null; exit $code'
    flag = "ro" if "ro" in words else ""
    recipe = [word for word in recipe if word != "ro"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")
    } | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(disk), flag, *recipe],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    """A checkpoint of ResNet-8 takes 630 kB: two fit, the third does not."""
    ended = run_on_a_small_disk(
        tmp_path, "size=1700k", "duration=9it", "checkpoint.every=2it", "checkpoint.keep=9"
    )
    assert ended.returncode == 7, ended.stdout + ended.stderr
    message = (
        r"^(error: )?the checkpoint of step (\d) could not be written to \S+ \(.*No space left on device\); "
        r"\S+step_000000004\.pt is whole"
    )
    said = re.findall(message, ended.stderr, re.M)
    assert said == [("", "6"), ("error: ", "8")], ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout.split()[-4:] == [
        f"step_{step:09}.{kind}" for step in (2, 4) for kind in ("pt", "sha256")
    ]


@pytest.mark.parametrize(
    "size",
    [
        8,
        *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)),
    ],
)
def test_a_disk_that_is_full_anywhere_ends_the_run_with_one_message_and_a_file(tmp_path, size):
    """From the first files on: recipe.yaml, plan.json, the rows, TensorBoard, a checkpoint."""
    ended = run_on_a_small_disk(tmp_path, f"size={size}k", "duration=40it", "checkpoint.every=1dur")
    assert ended.returncode == 7, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr
    messages = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, ended.stderr
    assert re.search(
        r"/run/\S+ could not be written \(No space left on device\)|written to \S+ \(.*No space", messages[0]
    ), ended.stderr


def test_a_read_only_run_directory_is_rejected(tmp_path):
    ended = run_on_a_small_disk(tmp_path, "size=2m", "ro", "duration=2it")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert re.fullmatch(
        r"error: run_dir=\S+ cannot be written to: Read-only file system\. Choose .*\n", ended.stderr
    ), ended.stderr


def test_who_waits_for_the_lock_is_told_of_the_owner_and_gets_it_in_the_end(tmp_path, monkeypatch, capsys):
    """A host that was lost holds its lock on an NFS for 90 s."""
    now = [0.0]
    monkeypatch.setattr(directory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(directory.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 1))
    monkeypatch.setattr(directory, "_locked", lambda lock: now[0] > 90)
    (tmp_path / "lock").write_text("process 7 on node02\n")
    RunDirectory(tmp_path).lock().close()
    said = capsys.readouterr().out
    assert said == f"run_dir={tmp_path} is in use by process 7 on node02. Waiting for it, 100 s at most.\n"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, capsys, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory.fcntl, "lockf", refused)
    RunDirectory(tmp_path).lock().close()
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"note: this file system has no locks ({os.strerror(number)}), so nothing keeps")


def test_two_jobs_on_one_run_directory_are_rejected_until_the_first_is_dead(tmp_path):
    run_dir = RunDirectory(tmp_path)
    reader, writer = os.pipe()
    owner = os.fork()
    if not owner:
        try:
            lock = run_dir.lock()
            os.write(writer, b"x")
            time.sleep(60)
            lock.close()
        finally:
            os._exit(1)
    os.close(writer)  # so that a child that ends without a word ends the reading too
    assert os.read(reader, 1) == b"x"
    with pytest.raises(
        RecipeError,
        match=(
            rf"is in use by process {owner} on \S+ since .*\. Wait for it, end it, or choose another "
            r"run_dir"
        ),
    ):
        run_dir.lock(patience=0.3)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    run_dir.lock(patience=0.3).close()
