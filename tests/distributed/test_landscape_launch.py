"""The landscape's command under torchrun, as a user types it: two ranks with half of the examples each find
what one finds with all.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.ranks import free_port
from tests.unit.landscape.untrained import write_run

ROOT = Path(__file__).parents[2]
OPTIONS = ["--examples", "32", "--micro-batch", "16"]


def hessian(run: Path, *launcher: str) -> str:
    """What the command prints; it must end well, with whatever it started."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    command = [sys.executable, "-m", *launcher, "tools.landscape", "hessian", str(run), *OPTIONS]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def cached(run: Path, name: str) -> dict:
    return json.loads((run / f"landscape/{name}.json").read_text())["result"]


@pytest.mark.slow
def test_two_ranks_under_torchrun_find_what_one_finds(tmp_path):
    runs = [write_run(tmp_path / "one", seed=0), tmp_path / "two"]
    shutil.copytree(*runs)
    alone = hessian(runs[0])
    together = hessian(
        runs[1], "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m"
    )
    assert alone.count("trace (95%)") == together.count("trace (95%)") == 1, "rank 0 alone speaks"
    one, two = (cached(run, "top_eigenvalues") for run in runs)
    assert (
        one["converged"]
        and two["values"] == pytest.approx(one["values"], rel=2e-3)
        and len(one["values"]) == 5
    )
    one, two = (cached(run, "trace") for run in runs)
    assert two["samples"] == pytest.approx(one["samples"], rel=1e-3) and len(one["samples"]) >= 10
