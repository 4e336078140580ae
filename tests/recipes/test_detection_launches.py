"""Detection under each launcher, as a user types it: two ranks, two steps of the shapes recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.ranks import free_port

RECIPE = Path(__file__).parents[2] / "recipes/coco/mask_rcnn_shapes.py"
BIN = Path(sys.executable).parent
LAUNCHERS = {
    # Without an address it would ask this machine for one over ssh.
    "deepspeed": (
        "deepspeed",
        "--hostfile",
        "{hostfile}",
        "--no_ssh_check",
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        "{port}",
    ),
    "accelerate": (
        "accelerate",
        "launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "{port}",
    ),
    "ddp": ("torchrun", "--nproc_per_node", "2", "--master_port", "{port}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", LAUNCHERS)
def test_two_steps_on_two_ranks(engine, tmp_path):
    (tmp_path / "hostfile").write_text("localhost slots=2\n")
    port = free_port()
    program, *words = (word.format(hostfile=tmp_path / "hostfile", port=port) for word in LAUNCHERS[engine])
    overrides = [
        "duration=2it",
        "log_every=1it",
        "schedule.warmup=1it",
        "data.image_size=64",
        f"run_dir={tmp_path / 'run'}",
    ]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [str(BIN / program), *words, str(RECIPE), *overrides]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["engine"], summary["world_size"], summary["step"]) == (engine, 2, 2)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2] and "mask_ap" in summary
