"""The layer-wise ratios of LARS and LAMB at every evaluation, for a picture of them over the run."""

from collections.abc import Iterator

import torch

from lbtrain.monitors.protocol import Monitor, StepResult
from lbtrain.optim import trust_ratios
from lbtrain.runs.rows import TrustRow


class TrustMonitor(Monitor):
    """Gives a row for the optimizers that have such ratios, and none for others."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    def after_evaluation(self, done: StepResult) -> Iterator[TrustRow]:
        if ratios := trust_ratios(self.optimizer):
            yield TrustRow(done.progress.step, done.progress.examples, ratios)
