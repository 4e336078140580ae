"""A rank that is killed, stopped or broken ends the whole job, within fault_timeout, with one message; the
next start goes on exactly.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.jobs import PATIENCE, TIMEOUT, Break, Job, left_behind, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")

LOST = 4
REST = "All ranks end; the same command goes on from the newest checkpoint"


@pytest.fixture
def broken_job(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Job]:
    job = Job.start(tmp_path / "job", broken=request.param)
    yield job
    job.end()


def check_goes_on(job: Job, undisturbed: Job) -> None:
    again = Job.start(job.folder)
    assert again.codes() == [0, 0], again.screen
    assert all(torch.equal(tensor, again.weights()[name]) for name, tensor in undisturbed.weights().items())
    assert again.losses() == undisturbed.losses()


def check_all_gone(job: Job) -> None:
    assert wait_until(lambda: not left_behind(job.folder), PATIENCE), left_behind(job.folder)


def cases(*points: str, quick: set[tuple[str, int]], **what: Any) -> list:
    """Every point on either rank; those that are not `quick` are slow."""
    return [
        pytest.param(
            Break(point, (rank,), **what),
            id=f"{point}-rank{rank}",
            marks=() if (point, rank) in quick else pytest.mark.slow,
        )
        for point in points
        for rank in (0, 1)
    ]


@pytest.mark.parametrize(
    "broken_job",
    cases(
        *("start-up", "building", "first step", "accumulation", "evaluation", "checkpoint"),
        quick={("start-up", 1), ("checkpoint", 0)},
        number=signal.SIGKILL,
    ),
    indirect=True,
)
def test_a_killed_rank_ends_the_job_and_the_next_start_goes_on_exactly(broken_job, undisturbed, request):
    broken: Break = request.node.callspec.params["broken_job"]
    codes = broken_job.codes()
    took = time.time() - broken_job.broke_at
    (rank,) = broken.ranks
    assert codes == [-signal.SIGKILL if each == rank else LOST for each in (0, 1)], broken_job.screen
    assert took < TIMEOUT
    check_all_gone(broken_job)  # and what a guard says last is said
    doing = {"building": "start-up", "first step": "training", "accumulation": "training"}.get(
        broken.point, broken.point
    )
    step = {"accumulation": 4, "evaluation": 3, "checkpoint": 4}.get(broken.point, 0)
    message = (
        rf"rank {rank} on \S+ lost after step {step} \({doing}\): its process is gone \(killed, or crashed\)"
    )
    assert len(re.findall(rf"^error: {message}\. {REST}$", broken_job.screen, re.M)) == 1, broken_job.screen
    assert "Traceback" not in broken_job.screen
    check_goes_on(broken_job, undisturbed)


@pytest.mark.parametrize(
    "broken_job", cases("first step", quick={("first step", 1)}, number=signal.SIGSTOP), indirect=True
)
def test_a_stopped_rank_ends_the_job_and_is_ended_by_its_guard(broken_job, request):
    (rank,) = request.node.callspec.params["broken_job"].ranks
    codes = broken_job.codes()
    assert time.time() - broken_job.broke_at < TIMEOUT
    assert codes == [-signal.SIGKILL if each == rank else LOST for each in (0, 1)], broken_job.screen
    check_all_gone(broken_job)
    assert re.search(
        rf"^error: rank {rank} on \S+ lost after step 0 \(training\): stopped \(SIGSTOP\) for \d+ s",
        broken_job.screen,
        re.M,
    )


@pytest.mark.parametrize(
    "broken_job",
    cases("accumulation", quick=set(), number=signal.SIGSTOP, guard_too=True),
    indirect=True,
)
def test_ranks_that_hang_with_their_guards_are_left_behind_and_end_when_they_wake(broken_job, request):
    (hung,) = request.node.callspec.params["broken_job"].ranks
    assert wait_until(lambda: broken_job.ranks[1 - hung].exitcode is not None, 60)
    assert time.time() - broken_job.broke_at < TIMEOUT
    assert broken_job.ranks[1 - hung].exitcode == LOST
    assert re.search(
        rf"^error: rank {hung} on \S+ lost after step \d.*: not heard of for \d+ s", broken_job.screen, re.M
    ), broken_job.screen
    for pid in left_behind(broken_job.folder):
        os.kill(pid, signal.SIGCONT)
    assert broken_job.codes(TIMEOUT)[hung] in (
        LOST,
        -signal.SIGKILL,
    )  # by itself, or by its guard where that wakes first
    check_all_gone(broken_job)


@pytest.mark.parametrize(
    "broken_job", cases("first step", quick={("first step", 0)}, raises="OSError"), indirect=True
)
def test_an_error_of_one_rank_shows_its_traceback_and_ends_the_others(broken_job, request):
    (rank,) = request.node.callspec.params["broken_job"].ranks
    assert broken_job.codes() == [1 if each == rank else LOST for each in (0, 1)], broken_job.screen
    assert time.time() - broken_job.broke_at < TIMEOUT
    assert re.search(
        rf"^error: rank {rank} on \S+ lost after step 0 \(training\): OSError: broken on purpose",
        broken_job.screen,
        re.M,
    )
    assert broken_job.screen.count("Traceback") == 1


@pytest.mark.parametrize("broken_job", [Break("building", (1,), raises="RecipeError")], indirect=True)
def test_a_rejection_by_one_rank_is_reported_and_all_exit_with_its_code(broken_job):
    assert broken_job.codes() == [2, 2], broken_job.screen
    assert re.search(
        r"^error: rank 1 on \S+ lost after step 0 \(start-up\): broken on purpose", broken_job.screen, re.M
    ), broken_job.screen


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_guard_that_is_stopped_alone_ends_the_job_within_the_bound(tmp_path, rank):
    """Without it, its rank would not hear that a part of the job is lost."""
    broken = Break("accumulation", (rank,), number=signal.SIGSTOP, guard_alone=True)
    job = Job.start(tmp_path / "job", "duration=100000it", "evaluate_every=1dur", broken=broken)
    try:
        assert job.codes() == [LOST, LOST], job.screen
        assert time.time() - job.broke_at < TIMEOUT
        assert "Traceback" not in job.screen
        assert re.search(r"^error: rank \d on \S+ .*not heard of for \d+ s", job.screen, re.M), job.screen
        check_all_gone(job)
    finally:
        job.end()
