"""Everything to be measured on one GPU, as one command of at most nine minutes; appends to results/gpu.csv.

    python -m bench.gpu                              every case, in this order, until the time is over
    python -m bench.gpu --cases resnet50 batch_size  some of them
    python -m bench.gpu --tiny                       a rehearsal that writes nothing: small, on a CPU too

Cases: `matrix` (TFLOP/s of a bf16 matrix product: the rate that the chip really has), `resnet50` (224 x 224,
bf16, channels last, images/s against the peers' loops, as a share of that rate, and of the data sheet's rate
beside NVIDIA's published run), `arithmetic` (the same loop with TF32, bf16, channels last, compiled, and
with deterministic=true), `memory` (peak of device memory against the plain loop), `optim` (LARS and
LAMB steps against timm's), `ghost` (what ghost batches of 32 cost in a batch of 4,096), `time_to_accuracy`
(seconds of training until 94 % on CIFAR-10 with recipes/cifar10/wide_resnet_1k.py; --speedrun: a peer's
script beside it; LBTRAIN_DATA: where CIFAR-10 lies), `batch_size` (images/s over batch and micro-batch,
AlexNet and ResNet-50: You et al. 2017 report 3x from 512 to 4,096 for AlexNet on eight GPUs). What does not
fit the memory, fails, or has no time left is named, and the rest goes on.

Rows go to results/gpu.csv, or into the folder that LBTRAIN_RESULTS names. A machine that has torch,
torchvision, timm and scikit-learn, but no package index, gets the rest as files: `make wheels
GPU_PYTHON=3.12` here, for the Python there, and there `python -m pip install --no-deps wheels/*.whl`.

Accuracy against batch size is a command of its own, for a longer loan of a GPU:

    python -m tools.study sweep recipes/cifar10/wide_resnet.py \\
        --batch-sizes 64,256,1024,4096,8192,16384 --seeds 3 --out runs/cifar10_sweep
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bench import parser, rows
from bench.gpu_curves import LONGEST, LONGEST_POINT, batch_size, time_to_accuracy
from bench.gpu_steps import COMMAND, Setting, arithmetic, ghost, matrix, memory, optimizers, resnet50
from lbtrain.errors import UserError

CASES: dict[str, Callable[[Setting], Iterable[rows.Row]]] = {
    "matrix": matrix,
    "resnet50": resnet50,
    "arithmetic": arithmetic,
    "memory": memory,
    "optim": optimizers,
    "ghost": ghost,
    "time_to_accuracy": time_to_accuracy,
    "batch_size": batch_size,
}


def main() -> None:
    flags = parser(COMMAND, __doc__, cases=CASES, timm=True)
    flags.add_argument(
        "--minutes",
        type=float,
        default=9.0,
        help="Minutes; a case that may not end within them is not started (default 9).",
    )
    flags.add_argument(
        "--speedrun",
        type=Path,
        metavar="FILE",
        help="A peer's script that trains CIFAR-10 to 94 %%, which is timed too.",
    )
    flags.add_argument("--tiny", action="store_true", help="Rehearse every case, also on a CPU.")
    options = flags.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("no GPU here: nothing measured (--tiny rehearses on a CPU)")
    if not options.timm:
        print("timm train.py: not measured, no checkout of timm's repository (--timm DIR)", flush=True)
    ends = time.monotonic() + options.minutes * 60
    setting = Setting(
        "cuda" if torch.cuda.is_available() else "cpu", options.tiny, options.timm, options.speedrun, ends
    )
    failed = []
    for name in options.cases:
        if not setting.has_time(name, LONGEST_POINT if name == "batch_size" else LONGEST):
            continue
        try:
            for row in CASES[name](setting):
                if options.tiny:
                    print(rows.show(row), flush=True)
                else:
                    rows.write([row], "gpu")
        except UserError as error:  # no CIFAR-10 here, say
            print(f"{name}: not measured, {error}", flush=True)
        except Exception:  # whatever it is, the GPU is lent for minutes, and the other cases are worth them
            traceback.print_exc()
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)


if __name__ == "__main__":
    main()
