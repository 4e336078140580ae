"""Layers and models that large-batch recipes need and timm does not have. Importing this package registers
the models with timm.
"""

from lbtrain.nn import alexnet, cifar_resnet, wide_resnet
from lbtrain.nn.ghost_bn import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostStatistics,
    convert_to_ghost_batch_norm,
    regroup_ghost_batches,
)

__all__ = [
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostStatistics",
    "alexnet",
    "cifar_resnet",
    "convert_to_ghost_batch_norm",
    "regroup_ghost_batches",
    "wide_resnet",
]
