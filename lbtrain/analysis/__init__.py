"""Measurements of the loss landscape: functions of (model, loss, batches) that work without the loop."""

from lbtrain.analysis.hessian import power_iteration, spectral_density, top_eigenvalues, trace
from lbtrain.analysis.objective import Objective

__all__ = ["Objective", "power_iteration", "spectral_density", "top_eigenvalues", "trace"]
