"""What all cases of bench.gpu share: the device, the time that is left, and what becomes of an error."""

import contextlib
import gc
import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.peers import Job
from lbtrain.errors import Preempted, UserError

COMMAND = "python -m bench.gpu"


@dataclass(frozen=True)
class Setting:
    device: str
    tiny: bool
    timm_checkout: Path | None = None
    speedrun: Path | None = None
    ends: float = math.inf
    """When the time is over, by time.monotonic()."""
    failed: list[str] = field(default_factory=list)
    """What ended with an error that is no user's."""

    @property
    def resnet50(self) -> Job:
        job = Job("resnet50", 224, 256, 8, device=self.device, precision="bf16", channels_last=True)
        small = replace(job, model="test_resnet", image_size=32, micro_batch_size=2, steps=1)
        return small if self.tiny else job

    @property
    def vit(self) -> Job:
        job = Job("vit_small_patch16_224", 224, 256, 8, device=self.device, precision="bf16")
        small = replace(job, model="test_vit", image_size=160, micro_batch_size=2, steps=1)
        return small if self.tiny else job

    @property
    def rounds(self) -> int:
        return 1 if self.tiny else 9

    def has_time(self, what: str, seconds: float) -> bool:
        """Whether so many are left; says so where they are not."""
        if time.monotonic() + seconds <= self.ends:
            return True
        print(f"{what}: not measured, no time left", flush=True)
        return False

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Names an error and lets the rest go on: the time on a GPU is short. A stop by a signal passes."""
        try:
            yield
        except Preempted:
            raise
        except UserError as error:  # no CIFAR-10 here, say
            print(f"{what}: not measured, {error}", flush=True)
        except Exception as error:
            traceback.print_exc()
            print(f"{what}: not measured, {type(error).__name__}: {error}", flush=True)
            self.failed.append(what)


def command(case: str) -> str:
    return f"{COMMAND} --cases {case}"


def free_memory() -> None:
    """What earlier runs left on the device: an engine and its model refer to each other."""
    gc.collect()
    torch.cuda.empty_cache()
