"""Imported by the server that forks the ranks of lab.ranks when it starts, so that no rank has to."""
# ruff: noqa: F401

import contextlib
import os

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks when it is imported

import torch._inductor.compile_fx  # which DeepSpeed's first step under ZeRO needs
import torch.utils.tensorboard

import lbtrain.run

with contextlib.suppress(ImportError):  # what is not installed is not wanted
    import accelerate
with contextlib.suppress(ImportError):
    import deepspeed
