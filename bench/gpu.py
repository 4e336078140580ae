"""What is to be measured on one GPU, as one command of about eight minutes; appends to results/gpu.csv.

    python -m bench.gpu                              every case, in this order, until the time is over
    python -m bench.gpu --cases batch_size arithmetic    some of them: those that the first command left
    python -m bench.gpu --tiny                       a rehearsal that writes nothing: small, on a CPU too

Cases: `matrix` (TFLOP/s of a bf16 matrix product: the rate that the chip really has), `resnet50` (224 x 224,
bf16, channels last, images/s against the peers' loops, as a share of that rate, and of the data sheet's rate
beside NVIDIA's published run), `vit` (ViT-S/16, bf16, against the plain loop and timm's), `optim` (steps of
LARS, LAMB, AdamW and Muon against timm's, torch's, and as a bound torch's fused kernels), `noise_scale` (what
measuring it costs a step), `memory` (peak of device memory against the plain loop), `ghost` (what ghost
batches of 32 cost in a batch of 4,096), `time_to_accuracy` (seconds of training until 94 % on CIFAR-10 with
recipes/cifar10/wide_resnet_1k.py), `curve` (the error of ResNet-20 on CIFAR-10 over batches of 512 to 16,384,
by the linear rule and with Muon: 8 epochs, 3 seeds, planned as 3.5 minutes on an H200), `batch_size`
(images/s over batch and micro-batch, ResNet-50 and AlexNet: You et al. 2017 report 3x from 512 to 4,096 for
AlexNet on eight GPUs), `arithmetic` (the loop of `resnet50` with TF32, bf16, channels last, with
deterministic=true, and compiled). What does not fit the memory, fails, or has no time left is named, and the
rest goes on; a stop by a signal ends the command.

A machine that has torch, torchvision and scikit-learn, but neither a package index nor a checkout: `make
wheels` here collects the rest for Python 3.12 (GPU_PYTHON=3.11: for another). With it and the source there,

    python -m pip install --no-index --no-deps --target /tmp/site wheels/*.whl
    export PYTHONPATH=/tmp/site LBTRAIN_DATA=/tmp/data LBTRAIN_COMMIT=1234567 LBTRAIN_RESULTS=$OUT
    python -m bench.gpu

LBTRAIN_RESULTS is the folder that gpu.csv goes to instead of results/: one that outlives the machine.
LBTRAIN_COMMIT is the commit that the rows state. LBTRAIN_DATA is the folder of CIFAR-10; a file that is too
large for one transfer goes in parts (`split -b 40M train.npz part.`, there `cat part.* > train.npz`). timm's
own loop takes part with --timm DIR, where the train.py of its repository lies.

The same curve with a larger network, more batches and all its epochs takes hours:

    python -m tools.study sweep recipes/cifar10/wide_resnet.py \\
        --batch-sizes 64,256,1024,4096,8192,16384 --seeds 3 --out runs/cifar10_sweep
"""

# ruff: noqa: E402
import os
import time

STARTED = time.monotonic()
"""Before the imports below, which take their part of the time."""
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""For deterministic=true. Read once, by the first product of the process; on a Hopper card torch's default is
as large.
"""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bench import parser, rows
from bench.gpu_accuracy import curve, time_to_accuracy
from bench.gpu_curves import batch_size
from bench.gpu_peers import resnet50, vit
from bench.gpu_setting import COMMAND, Setting, free_memory
from bench.gpu_steps import arithmetic, ghost, matrix, memory, noise, optimizers
from lbtrain.errors import Preempted

# A case: (what measures it, the seconds that it may take; 0 where it looks at the clock itself)
CASES: dict[str, tuple[Callable[[Setting], Iterable[rows.Row]], float]] = {
    "matrix": (matrix, 10),
    "resnet50": (resnet50, 120),
    "vit": (vit, 60),
    "optim": (optimizers, 40),
    "noise_scale": (noise, 40),
    "memory": (memory, 40),
    "ghost": (ghost, 60),
    "time_to_accuracy": (time_to_accuracy, 120),
    "curve": (curve, 0),
    "batch_size": (batch_size, 0),
    "arithmetic": (arithmetic, 0),
}


def main() -> None:
    flags = parser(COMMAND, __doc__, cases=CASES, timm=True, hide_gpus=False)
    flags.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="Minutes from the start of the process (default 8): what may not end within them by its plan is "
        "not started.",
    )
    flags.add_argument(
        "--speedrun",
        type=Path,
        metavar="FILE",
        help="A peer's script that trains CIFAR-10 to 94 %%, which time_to_accuracy times from start to end: "
        "a copy that makes one run and reads images that are there (airbench's makes 200 and downloads).",
    )
    flags.add_argument("--tiny", action="store_true", help="Rehearse every case, also on a CPU.")
    options = flags.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("no GPU here: nothing measured (--tiny rehearses on a CPU)")
    if not options.timm:
        print("timm train.py: not measured, no checkout of timm's repository (--timm DIR)", flush=True)
    ends = math.inf if options.tiny else STARTED + options.minutes * 60
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(device, options.tiny, options.timm, options.speedrun, ends)
    try:
        measure(setting, options.cases)
    except Preempted as stop:
        print("stopped by a signal: the rest is not measured", flush=True)
        sys.exit(stop.exit_code)
    sys.exit(f"failed: {', '.join(setting.failed)}" if setting.failed else None)


def measure(setting: Setting, cases: Iterable[str]) -> None:
    """Writes each row as soon as it is measured."""
    for name in cases:
        case, seconds = CASES[name]
        if not setting.has_time(name, seconds):
            continue
        free_memory()
        with setting.guarded(name):
            for row in case(setting):
                if setting.tiny:
                    print(rows.show(row), flush=True)
                else:
                    rows.write([row], "gpu")


if __name__ == "__main__":
    main()
