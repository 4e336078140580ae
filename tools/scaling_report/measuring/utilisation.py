"""Two ratios of a measured point: how much of the GPU's data sheet it uses, and how much of the exchange it
hides.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lbtrain import Recipe
from lbtrain.data import DatasetInfo, dataset_info
from lbtrain.plan.precision import product_precision
from lbtrain.plan.statistics import model_statistics
from lbtrain.tasks import build_model

from ..model.presets import GPUS, find
from ..report import Collective, Row


@dataclass(frozen=True)
class Utilisation:
    """What the ratios need of a recipe and of this machine's device. `flops` of training on one image and the
    data sheet's `peak`, operations a second, are None where they are not known.
    """

    gradient_bytes: float
    flops: float | None = None
    peak: float | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Utilisation":
        info = dataset_info(recipe.data)
        gradient_bytes = 4.0 * model_statistics(recipe, info).parameters
        if not torch.cuda.is_available():
            return cls(gradient_bytes)
        peak = peak_flops(torch.cuda.get_device_name(), product_precision(recipe))
        return cls(gradient_bytes, training_flops(recipe, info) if peak else None, peak)

    def added_to(self, rows: Sequence[Row], collectives: Sequence[Collective]) -> list[Row]:
        """The rows with `mfu`, and with `overlap` where an all-reduce over as many GPUs was timed alone."""
        return [
            dataclasses.replace(row, mfu=self._mfu(row), overlap=self._overlap(row, collectives))
            for row in rows
        ]

    def _mfu(self, row: Row) -> float | None:
        if self.flops is None or self.peak is None or row.images_per_s_gpu is None:
            return None
        return row.images_per_s_gpu * self.flops / self.peak

    def _overlap(self, row: Row, collectives: Sequence[Collective]) -> float | None:
        alone = sorted((each.num_bytes, each.seconds) for each in collectives if each.gpus == row.gpus)
        if not alone or row.exposed_communication_s is None:
            return None
        sizes, seconds = zip(*alone, strict=True)
        largest = self.gradient_bytes / sizes[-1]
        within = float(np.interp(self.gradient_bytes, sizes, seconds))
        whole = seconds[-1] * largest if largest > 1 else within
        return min(1.0, max(0.0, 1 - row.exposed_communication_s / whole))


def training_flops(recipe: Recipe, info: DatasetInfo) -> float | None:
    """Floating-point operations of training on one image: three times those of the forward pass, as in the
    model FLOPs utilisation of Chowdhery et al. 2022 (PaLM, appendix B). None for detectors, whose images
    differ.
    """
    if recipe.model.library != "timm":
        return None
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_model(recipe, info).eval()
        model(torch.empty(1, info.channels, info.image_size, info.image_size))
    return 3.0 * counter.get_total_flops()


def peak_flops(device: str, precision: str) -> float | None:
    """Operations a second by the data sheet; None for a device or a precision that no data sheet here has."""
    known = find(device, GPUS)
    rate = GPUS[known].tflops.get(precision) if known else None
    return rate and rate * 1e12
