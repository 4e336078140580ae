"""The groups of keys of a recipe, one file per topic. Keys without a group stand in lbtrain.recipe.schema."""

from lbtrain.recipe.sections.data import DataConfig
from lbtrain.recipe.sections.model import ModelConfig
from lbtrain.recipe.sections.optimizer import OptimizerConfig
from lbtrain.recipe.sections.running import (
    CheckpointConfig,
    ColossalAIConfig,
    DeepSpeedConfig,
    LogConfig,
    MeasureConfig,
)
from lbtrain.recipe.sections.schedule import ScheduleConfig
from lbtrain.recipe.sections.techniques import AbsaConfig, AverageConfig, LossConfig

__all__ = [
    "AbsaConfig",
    "AverageConfig",
    "CheckpointConfig",
    "ColossalAIConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "LogConfig",
    "LossConfig",
    "MeasureConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
]
