"""Measurements of the loss landscape: functions of (model, loss, batches) that work without the loop."""

from lbtrain.analysis.hessian import power_iteration, spectral_density, top_eigenvalues, trace
from lbtrain.analysis.noise_scale import noise_scale
from lbtrain.analysis.objective import Objective
from lbtrain.analysis.sharpness import ascent_sharpness, box_sharpness

__all__ = [
    "Objective",
    "ascent_sharpness",
    "box_sharpness",
    "noise_scale",
    "power_iteration",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
