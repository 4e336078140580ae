"""Layers and models that large-batch recipes need and timm does not have. Importing this package registers
the models with timm.
"""

from lbtrain.nn import airbench, alexnet, cifar_resnet, resnet_v1, small_nets, wide_resnet
from lbtrain.nn.conversion import (
    check_batch_statistics,
    convert_to_ghost_batch_norm,
    regroup_ghost_batches,
)
from lbtrain.nn.drop_path import ExampleDropPath, convert_drop_path, drop_path_layers
from lbtrain.nn.ghost_bn import GhostBatchNorm, GhostBatchNorm1d, GhostBatchNorm2d
from lbtrain.nn.ghost_statistics import GhostStatistics
from lbtrain.nn.heads import head_names
from lbtrain.nn.random_layers import random_layers, without_random_layers
from lbtrain.nn.wrappers import check_unwrapped

__all__ = [
    "ExampleDropPath",
    "GhostBatchNorm",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostStatistics",
    "airbench",
    "alexnet",
    "check_batch_statistics",
    "check_unwrapped",
    "cifar_resnet",
    "convert_drop_path",
    "convert_to_ghost_batch_norm",
    "drop_path_layers",
    "head_names",
    "random_layers",
    "regroup_ghost_batches",
    "resnet_v1",
    "small_nets",
    "wide_resnet",
    "without_random_layers",
]
