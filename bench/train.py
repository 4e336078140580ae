"""Training speed against loops written by hand, in turns in one process (group).

    python -m bench.train                     every case, about 4 minutes on two cores; appends to results/train.csv
    python -m bench.train --cases startup     some of them

Cases: `single` (one process, ResNet-20, 32 x 32, batch 128, plain PyTorch loop), `ddp` (two gloo ranks, one thread each,
DistributedDataParallel), `deepspeed` and `accelerate` (the same two ranks through those engines), `startup` (how long `plan_for=` takes).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import rows

STEPS, WINDOW, ROUNDS = 30, 10, 7
TARGETS = {"single": ">=0.97", "ddp": ">=0.97", "deepspeed": ">=0.95", "accelerate": ">=0.95"}
COMMAND = "python -m bench.train"


def ours(engine: str, batch_size: int) -> list[float]:
    """Images/s of each logged window of lbtrain's own loop, records, logging and all."""
    from lbtrain import Recipe
    from lbtrain.main import run

    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe().vary(
            engine=engine,
            batch_size=batch_size,
            bn_batch_size=batch_size // int(os.environ.get("WORLD_SIZE", 1)),
            duration=f"{STEPS}it",
            model=dict(name="cifar_resnet20"),
            data=dict(name="synthetic", image_size=32),
            schedule=dict(warmup="0ep", decay="none", base_lr=0.01, rule="none"),
            log_every=f"{WINDOW}it",
            run_dir=f"{folder}/run",
        )
        run(recipe, "bench", on_screen=False)
        if os.environ.get("RANK", "0") != "0":
            return []
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        return [row["images_per_sec"] for row in map(json.loads, lines) if row["kind"] == "train"]


def by_hand(batch_size: int) -> list[float]:
    """The same windows of the loop that anyone would write: model, SGD, DistributedDataParallel with its defaults where there are ranks."""
    import timm
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch.nn.parallel import DistributedDataParallel

    import lbtrain.nn  # noqa: F401 registers cifar_resnet20 with timm

    world_size = dist.get_world_size() if dist.is_initialized() else 1
    model = timm.create_model("cifar_resnet20", num_classes=1000)
    if world_size > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 1000, (64,))
    speeds = []
    for _ in range(STEPS // WINDOW):
        started = time.perf_counter()
        for _ in range(WINDOW):
            picked = torch.randint(0, 64, (batch_size // world_size,))
            loss = F.cross_entropy(model(images[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        speeds.append(WINDOW * batch_size / (time.perf_counter() - started))
    return speeds


def in_turns(engine: str, batch_size: int) -> tuple[list[float], list[float]]:
    """The best window of each round, first window left out: what both loops do when nothing else disturbs the machine."""
    pairs = []
    for turn in range(ROUNDS + 1):
        first, second = (ours(engine, batch_size), by_hand(batch_size)) if turn % 2 else (None, by_hand(batch_size))
        mine, theirs = (first, second) if first is not None else (ours(engine, batch_size), second)
        if turn and mine:
            pairs.append((max(mine[1:]), max(theirs[1:])))
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]


def worker(case: str) -> None:
    """One rank of a two-rank case; rank 0 prints the pairs."""
    from lbtrain.cluster.launch import detect_world, leave_process_group, start_process_group

    start_process_group(detect_world())
    mine, theirs = in_turns(case, 128)
    if os.environ["RANK"] == "0":
        print("pairs", json.dumps([mine, theirs]), flush=True)
    leave_process_group()


def two_ranks(case: str) -> tuple[list[float], list[float]]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "bench.train", "--worker", case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    output = subprocess.run(launch, env=environment, check=True, capture_output=True, text=True, timeout=1200).stdout
    line = next(line for line in output.splitlines() if line.startswith("pairs "))
    mine, theirs = json.loads(line.removeprefix("pairs "))
    return mine, theirs


def startup() -> tuple[list[float], list[float]]:
    """Seconds for a plan of six world sizes, and the three that a person should wait at most."""
    recipe = str(Path(__file__).parents[1] / "recipes" / "resnet50_8k.py")
    plan = [sys.executable, recipe, "plan_for=8,16,32,64,128,256"]
    return [_seconds(plan) for _ in range(ROUNDS + 1)][1:], [3.0] * ROUNDS


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(case: str) -> rows.Row:
    if case == "startup":
        mine, theirs = startup()
        return rows.paired(
            "train", "plan_for", "import torch, timm", mine, theirs, unit="s", target="", command=f"{COMMAND} --cases startup"
        )
    mine, theirs = in_turns("ddp", 128) if case == "single" else two_ranks(case)
    peer = "plain loop" if case == "single" else "hand-written DDP"
    name = f"{case}, ResNet-20 32x32, batch 128, {1 if case == 'single' else 2} process(es)"
    return rows.paired("train", name, peer, mine, theirs, unit="images/s", target=TARGETS[case], command=f"{COMMAND} --cases {case}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=[*TARGETS, "startup"], default=[*TARGETS, "startup"])
    parser.add_argument("--worker", choices=list(TARGETS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    for case in options.cases:
        rows.write([measure(case)], "train")


if __name__ == "__main__":
    main()
