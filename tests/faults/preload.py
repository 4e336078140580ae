"""What the ranks of tests.faults.jobs find imported."""
# ruff: noqa: F401

import torch.utils.tensorboard

import lbtrain.data
import lbtrain.engines.ddp
import lbtrain.main
import lbtrain.run
import lbtrain.tasks.classification
import tests.faults.jobs
