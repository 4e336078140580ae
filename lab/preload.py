"""Imported by the servers that fork the ranks of lab.ranks and of tests, so that no rank has to."""
# ruff: noqa: F401

import contextlib
import os

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks when it is imported

import torch._inductor.compile_fx  # which DeepSpeed's first step under ZeRO needs
import torch.utils.tensorboard

import lbtrain.data
import lbtrain.engines.ddp
import lbtrain.main
import lbtrain.run
import lbtrain.tasks.classification

with contextlib.suppress(ImportError):  # what is not installed is not wanted
    import accelerate
with contextlib.suppress(ImportError):
    import deepspeed
