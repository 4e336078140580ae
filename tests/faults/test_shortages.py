"""A host that has too little of something: one message with the remedy, and exit code 8."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from lbtrain.data.loading import batches
from lbtrain.data.stream import SampleStream
from lbtrain.errors import HostError, SaveFailed, naming_the_shortage

ROOT = Path(__file__).parents[2]


class KilledLater:
    """A source whose loader process the system ends at some moment after its first batch was asked for."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __len__(self) -> int:
        return 10**6

    def fetch(self, block: object) -> tuple[torch.Tensor, torch.Tensor]:
        threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return torch.zeros(8, 3, 64, 64), torch.zeros(8, dtype=torch.long)


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))])
def test_a_loader_process_that_is_killed_at_any_moment_is_said_in_one_line(seed):
    source = KilledLater(random.Random(seed).uniform(0, 0.03))
    blocks = [SampleStream(10**6, seed=0).block(8 * number, 8) for number in range(2000)]
    with pytest.raises(HostError, match=r"a loader process died .*data\.workers"):
        for _ in batches(source, blocks, workers=2, device=torch.device("cpu")):  # type: ignore[arg-type]
            pass


def test_no_room_for_the_locks_of_the_loader_is_named_with_its_remedy(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    blocks = [SampleStream(16, seed=0).block(0, 8)]
    with pytest.raises(HostError, match=r"No space left on device.*--shm-size=8g.*data\.workers=0"):
        list(batches(KilledLater(1), blocks, workers=1, device=torch.device("cpu")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n 4096"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n 4096"),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left"),
            "shm-size",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "more memory"),
    ],
)
def test_a_shortage_is_named_with_its_remedy(error, remedy):
    with pytest.raises(HostError, match=remedy), naming_the_shortage():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), KeyError("x"), SaveFailed("shared memory")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, naming_the_shortage():
        raise error
    assert raised.value is error


def test_too_few_open_files_end_a_run_with_the_remedy(tmp_path):
    command = [
        sys.executable,
        "recipes/digits/digits.py",
        f"run_dir={tmp_path}",
        "duration=4it",
        "data.workers=2",
    ]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )
    assert done.returncode == 8, done.stderr
    assert "[rank0]" not in done.stderr
    assert "Too many open files" in done.stderr and "ulimit -n 4096" in done.stderr
