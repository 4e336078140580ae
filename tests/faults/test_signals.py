"""A request to stop, to one rank or to all, whatever they do: one step everywhere, saved, exit code 75; then
on as if nothing had been.
"""

import os
import pty
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.faults.jobs import PATIENCE, STEPS, Break, Job, left_behind, wait_until

SAVED = 75
NUMBERS = {
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "usr1": signal.SIGUSR1,
    "usr2": signal.SIGUSR2,
    "xcpu": signal.SIGXCPU,
    "hup": signal.SIGHUP,
}

# Signal, what the run does, whom it reaches. Every signal, every phase and both kinds of addressees, not
# every combination.
QUICK = [("usr1", "accumulation", (0, 1)), ("term", "evaluation", (1,))]
CASES = [
    ("term", "first step", (0,)),
    ("int", "accumulation", (1,)),
    ("int", "evaluation", (0, 1)),
    ("usr1", "checkpoint", (0,)),
    ("usr2", "accumulation", (1,)),
    ("xcpu", "evaluation", (0,)),
    ("hup", "accumulation", (0,)),
]


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Job]:
    number, point, ranks = request.param
    job = Job.start(tmp_path / "job", broken=Break(point, ranks, NUMBERS[number]))
    yield job
    job.end()


@pytest.mark.parametrize(
    "started",
    [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in CASES)],
    indirect=True,
    ids=lambda case: f"{case[0]}-{case[1]}-to-{'all' if len(case[2]) > 1 else case[2][0]}",
)
def test_a_signal_saves_at_one_step_and_the_run_goes_on_exactly(started: Job, undisturbed: Job):
    assert started.codes() == [SAVED, SAVED], started.screen
    (step,) = re.findall(
        r"^The run was stopped by a signal after step (\d+)\. "
        r"Everything is saved, and the same command continues from there\.$",
        started.screen,
        re.M,
    )
    newest = max((started.folder / "run/checkpoints").glob("step_*.pt"))
    assert newest.stem == f"step_{int(step):09}" and int(step) < STEPS
    assert wait_until(lambda: not left_behind(started.folder), PATIENCE)
    again = Job.start(started.folder)
    assert again.codes() == [0, 0], again.screen
    assert f"continuing from step {step} " in again.screen
    assert all(torch.equal(tensor, again.weights()[name]) for name, tensor in undisturbed.weights().items())
    assert again.losses() == undisturbed.losses()


@pytest.mark.parametrize(
    "started",
    [
        pytest.param(("term", "building", (0, 1)), marks=pytest.mark.slow, id="to-all"),
        pytest.param(("int", "building", (1,)), id="to-1"),
    ],
    indirect=True,
)
def test_before_training_there_is_nothing_to_save_and_all_end_at_once(started: Job):
    assert started.codes() == [SAVED, SAVED], started.screen
    assert "while nothing was trained: the same command goes on" in started.screen
    assert not (started.folder / "run/checkpoints").exists()
    assert wait_until(lambda: not left_behind(started.folder), PATIENCE)


def test_a_terminal_that_is_closed_saves_as_well(tmp_path: Path):
    words = ["engine=ddp", "duration=9999it", "log_every=1it", "model.name=cifar_resnet8"]
    code = f"from lbtrain import Recipe, main; main(Recipe(), {[*words, f'run_dir={tmp_path}']})"
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which these tests may run, ignores it
        os.execv(sys.executable, [sys.executable, "-c", code])
    rows = tmp_path / "metrics.jsonl"
    trains = wait_until(lambda: rows.exists() and b"\n" in rows.read_bytes(), 60)
    os.close(terminal)
    end = time.monotonic() + 60
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        time.sleep(0.05)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
    assert trains and os.waitstatus_to_exitcode(ended[1]) == SAVED
    assert len(list((tmp_path / "checkpoints").glob("step_*.pt"))) == 1
