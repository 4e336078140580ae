"""The recipe: every value an experiment consists of, typed, with its meaning, its range and its default.

A recipe is data. `vary` gives a copy with differences, `with_overrides` the same from `key=value` words of a
command line; both refuse a name, a type or a value that cannot be, with the remedy. What depends on how many
GPUs there are is not here but in the plan.
"""

import copy
import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import yaml
from omegaconf import OmegaConf

from lbtrain.errors import RecipeError
from lbtrain.recipe.expectation import Expectation
from lbtrain.recipe.values import checked, from_text, mapping_from_yaml

MAY_CHANGE_ON_RESUME = {
    "engine", "deepspeed.zero_stage", "deepspeed.config", "colossalai.zero_stage", "world_size",
    "micro_batch_size", "max_micro_batch_size", "validation_batch_size", "data.root",
    "data.workers", "channels_last", "run_dir", "fault_timeout", "skip_nonfinite", "resume",
    "log_every", "evaluate_every", "checkpoint.every", "checkpoint.keep", "data.on_error",
    "max_overflows", "min_loss_scale", "measure.noise_scale", "measure.layers", "measure.distance",
    "data.max_pixels", "data.validation_root",
}  # fmt: skip
"""Keys that do not enter the mathematics, so that a run may go on with other values."""


def _key(default: Any, help: str, **checks: Any) -> Any:
    """A field with its meaning, and its range (`choices`, `at_least`, `above`, `below`, `at_most`) or form
    (`duration`, `growth`, ...).
    """
    metadata = {"help": help, **checks}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    name: str = _key(
        "resnet50",
        "any timm model, or one of lbtrain.nn: alexnet, alexnet_bn, reduced_alexnet, "
        "cifar_resnet8/20/32/44, wide_resnet16_4",
    )
    args: dict[str, Any] = _key({}, "more arguments for timm.create_model, as {key: value}")
    head_std: float = _key(
        0.0, "standard deviation of the classifier's initial weights; 0: the model's own", at_least=0
    )
    library: str = _key(
        "timm",
        "timm: classifiers; torchvision: Mask R-CNN on a timm backbone; detectron2: its configs of Mask "
        "R-CNN",
        choices=("timm", "torchvision", "detectron2"),
    )
    weights: str = _key(
        "",
        "Mask R-CNN: a file of weights for the backbone, such as a checkpoint of a ResNet-50 run; empty: "
        "random",
    )
    batch_norm: str = _key(
        "ghost",
        "Mask R-CNN's backbone: over bn_batch_size images, over the whole batch, or frozen",
        choices=("ghost", "sync", "frozen"),
    )


@dataclass
class DataConfig:
    name: str = _key(
        "digits",
        "the data set",
        choices=(
            "digits",
            "mnist",
            "fashion_mnist",
            "cifar10",
            "cifar100",
            "imagenet",
            "imagefolder",
            "synthetic",
            "shapes",
            "coco",
        ),
    )
    root: str = _key("", "where the data lies; empty: the environment variable LBTRAIN_DATA")
    format: str = _key(
        "auto", "how photos lie there: auto, folder, tar, parquet, or timm:hfds/NAME (docs/data.md)"
    )
    augmentation: str = _key(
        "none",
        "train-time augmentation: crop_flip for small images; imagenet (Goyal et al.), imagenet_color, "
        "alexnet for photos, this one at "
        "Caffe's scale of 0 to 255, in scoring too; flip: detection",
        choices=("none", "crop_flip", "imagenet", "imagenet_color", "alexnet", "flip"),
    )
    on_error: str = _key(
        "raise",
        "an image that cannot be read: stop with its path, or replace it by the next and count it",
        choices=("raise", "replace"),
    )
    image_size: int = _key(0, "pixels a side; 0: the data set's own", at_least=0)
    mean: list[str] = _key(
        [],
        "per channel, where black is 0 and white 1, such as 0.485,0.456,0.406; empty: the model's own for "
        "photos, "
        "the data set's for small images",
        level=True,
    )
    std: list[str] = _key([], "standard deviation per channel, likewise", level=True)
    crop_share: float = _key(
        0.0,
        "photos: share of the shorter side that is left in the centre crop; 0: the model's own (0.875 is 224 "
        "of 256)",
        at_least=0,
        at_most=1,
    )
    interpolation: str = _key(
        "model",
        "photos: how they are resized; model: the model's own",
        choices=("model", "bilinear", "bicubic"),
    )
    max_pixels: int = _key(
        89_478_485, "an image of more pixels is taken for a decompression bomb and cannot be read", at_least=1
    )
    classes: str = _key(
        "",
        'photos: a file that numbers the classes, one name per line or JSON {"name": number}; classes that '
        "are not in "
        "it are left out; empty: in natural order",
    )
    validation_root: str = _key(
        "",
        "photos: root directory of the validation images; empty: data.root; none: train without validation",
    )
    validation_share: float = _key(
        0.0,
        "photos: share of each class that is held out for validation, where data.root has no validation "
        "images",
        at_least=0,
        below=1,
    )
    train_examples: int = _key(
        0, "train on only the first so many images of a data set held in memory; 0: on all", at_least=0
    )
    max_size: int = _key(
        0, "detection: the long edge at most, where image_size is the short one; 0: no bound", at_least=0
    )
    short_edges: list[str] = _key(
        [],
        "detection: short edges drawn from in training, the last one for scoring; empty: image_size",
        pixels=True,
    )
    group_by: str = _key(
        "none",
        "detection: steps of images of like orientation or like padded size",
        choices=("none", "aspect", "size"),
    )
    empty_images: bool = _key(False, "detection: train on images without objects as well")
    workers: int = _key(
        0, "loader processes per rank; 0 loads in the training process", at_least=0, at_most=128
    )


@dataclass
class OptimizerConfig:
    name: str = _key("sgd", "update rule", choices=("sgd", "lars", "lamb"))
    momentum: float = _key(0.9, "of SGD and LARS", at_least=0, below=1)
    nesterov: bool = _key(False, "Nesterov's form of momentum (SGD and LARS)")
    weight_decay: float = _key(
        1e-4, "on the parameters that no_decay leaves; never scaled with the loss", at_least=0
    )
    no_decay: list[str] = _key(
        ["norm", "bias"], "parameters without weight decay: norm, bias, or patterns of names such as head.*"
    )
    no_trust_ratio: list[str] = _key(
        ["norm", "bias"], "parameters without a layer-wise rate (LARS, LAMB), likewise"
    )
    trust_coefficient: float = _key(0.001, "LARS: eta of You et al. 2017", above=0)
    trust_clip: float = _key(0.0, "upper bound of the layer-wise ratio; 0: none", at_least=0)
    larc_clip: bool = _key(False, "LARS: never a layer rate above the global one (LARC)")
    momentum_scaling: str = _key(
        "lr_and_trust_ratio",
        "LARS: learning rate inside the momentum buffer (You et al.) or outside",
        choices=("lr_and_trust_ratio", "trust_ratio"),
    )
    eps: float = _key(1e-6, "LAMB's denominator; LARS adds it to the gradient norm", at_least=0)
    beta1: float = _key(0.9, "LAMB: first moment", at_least=0, below=1)
    beta2: float = _key(0.999, "LAMB: second moment", at_least=0, below=1)
    bias_correction: bool = _key(True, "LAMB: correct the moments of the first steps")
    clip_norm: float = _key(0.0, "clip the global gradient norm to this; 0: no clipping", at_least=0)


@dataclass
class ScheduleConfig:
    base_lr: float = _key(0.1, "the reference pair: this learning rate ...", at_least=0)
    base_batch_size: int = _key(256, "... at this global batch", at_least=1)
    base_momentum: float | None = _key(
        None,
        "... and this momentum: the rule is then for lr / (1 - momentum) (Smith et al. 2018); null: the same",
        at_least=0,
        below=1,
    )
    rule: str = _key(
        "linear",
        "how the rate follows the batch (linear: Goyal et al. 2017)",
        choices=("linear", "sqrt", "none", "table"),
    )
    table: list[str] = _key([], "rule=table: learning rates by batch size, such as 512:4,8192:16", table=True)
    regime_adaptation: bool = _key(
        False,
        "multiply all lengths in epochs by ceil(batch_size / base_batch_size): as many steps as the small "
        "batch (Hoffer et al. 2017)",
    )
    warmup: str = _key("5ep", "length of the gradual warm-up; 0ep: none", duration=True)
    warmup_start_lr: float | None = _key(
        None, "rate at which the warm-up starts; null: base_lr (Goyal et al., section 2.2)", at_least=0
    )
    warmup_start_share: float | None = _key(None, "... or this share of the peak", at_least=0, at_most=1)
    warmup_rule: str = _key(
        "none", "linear: multiply the warm-up by batch_size / base_batch_size", choices=("none", "linear")
    )
    warmup_form: str = _key(
        "gradual", "a ramp, or one constant rate until the warm-up ends", choices=("gradual", "constant")
    )
    decay: str = _key("step", "shape after the warm-up", choices=("step", "poly", "cosine", "none"))
    milestones: list[str] = _key(
        ["30ep", "60ep", "80ep"],
        "step: where the rate is multiplied by factor, or by its own (60ep:0.2)",
        milestone=True,
    )
    factor: float = _key(0.1, "step: what it is multiplied by", above=0, at_most=1)
    batch_growth: list[str] = _key(
        [],
        "where the batch is multiplied and by what, such as 60ep:5 (Smith et al. 2018); the rate stays as "
        "it is",
        growth=True,
    )
    power: float = _key(2.0, "poly: (1 - progress) to this power (You et al. 2017)", above=0)


@dataclass
class LossConfig:
    label_smoothing: float = _key(0.0, "share of the label given to all classes alike", at_least=0, below=1)
    mixup: float = _key(
        0.0,
        "alpha of the Beta that mixes images within a batch-norm batch (Zhang et al. 2018); 0: off",
        at_least=0,
    )
    multiplicative_noise: float = _key(
        0.0,
        "sigma of the normal(1, sigma) that weighs each example's loss (Hoffer et al. 2017, section 4)",
        at_least=0,
    )


@dataclass
class AbsaConfig:
    max_batch_size: int = _key(
        0, "the batch doubles up to this as the loss becomes flatter (Yao et al. 2018); 0: off", at_least=0
    )
    every: str = _key("1ep", "how often the largest Hessian eigenvalue is measured", duration=True)
    patience: int = _key(
        10, "measurements without growth after which the batch doubles anyway; 0: never", at_least=0
    )
    adversarial_share: float = _key(
        0.2,
        "of the images that FGSM moves, at the first batch size; halved with every doubling",
        at_least=0,
        at_most=1,
    )
    adversarial_step: float = _key(0.005, "epsilon of FGSM, in units of the normalised images", at_least=0)
    adversarial_until: str = _key("0.5dur", "from here on no image is moved", duration=True)


@dataclass
class AverageConfig:
    decay: float = _key(
        0.0,
        "of the moving average of the weights, per step (timm's ModelEmaV3); 0: no average",
        at_least=0,
        below=1,
    )
    warmup: bool = _key(False, "a smaller decay at first")


@dataclass
class CheckpointConfig:
    every: str = _key("1ep", "how often to save", duration=True)
    keep: int = _key(2, "how many of the newest stay", at_least=1)


@dataclass
class DeepSpeedConfig:
    zero_stage: int = _key(
        0, "0: plain data parallel; 1, 2, 3: shard states, gradients, weights", choices=(0, 1, 2, 3)
    )
    config: str = _key(
        "", "a DeepSpeed JSON file with mechanics only (buckets, offload); see recipes/deepspeed"
    )


@dataclass
class ColossalAIConfig:
    zero_stage: int = _key(
        0,
        "0: plain data parallel (TorchDDPPlugin); 1, 2: shard states, gradients (LowLevelZero)",
        choices=(0, 1, 2, 3),
    )


@dataclass
class MeasureConfig:
    noise_scale: str = _key(
        "0it", "how often to measure the gradient noise scale, such as 50it; 0it: never", duration=True
    )
    layers: bool = _key(False, "with it, noise scale, |w| and |g| of every layer (You et al. 2017, Table 2)")
    distance: bool = _key(
        False,
        "with every logged row, how far the weights are from where they started (keeps a copy of those)",
    )


@dataclass
class Recipe:
    """One experiment. Batch sizes are global unless their name says otherwise; durations carry their unit
    (5ep, 500it, 0.05dur).
    """

    batch_size: int = _key(256, "images per optimizer step over all ranks and accumulation steps", at_least=1)
    bn_batch_size: int = _key(
        32,
        "images over which a batch-norm layer takes its statistics, whatever the number of ranks",
        at_least=1,
    )
    loss_batch_size: int = _key(
        1,
        "Mask R-CNN: images over which its losses are normalised, whatever the number of ranks; 2 in Goyal "
        "et al.",
        at_least=1,
    )
    bn_momentum: float = _key(
        0.1,
        "weight of a step's batch statistics in the running ones, whose memory is thus 1/bn_momentum steps",
        above=0,
        at_most=1,
    )
    micro_batch_size: int = _key(
        0,
        "images per rank per forward pass; 0: the largest that divides and max_micro_batch_size allows",
        at_least=0,
    )
    max_micro_batch_size: int = _key(
        0, "the most images that a rank takes at once (memory); 0: no limit", at_least=0
    )
    validation_batch_size: int = _key(
        0, "images per rank per evaluation pass; 0: as many as in training", at_least=0
    )
    duration: str = _key("90ep", "length of the run", duration=True)
    seed: int = _key(0, "seeds initial weights, sample order and augmentation", at_least=0, below=2**31)
    model: ModelConfig = _key(ModelConfig, "the network")
    data: DataConfig = _key(DataConfig, "the images")
    optimizer: OptimizerConfig = _key(OptimizerConfig, "the update")
    loss: LossConfig = _key(LossConfig, "what the loss is made of")
    absa: AbsaConfig = _key(AbsaConfig, "a batch that adapts to the curvature")
    ema: AverageConfig = _key(AverageConfig, "a moving average of the weights")
    schedule: ScheduleConfig = _key(ScheduleConfig, "the learning rate")
    skip_nonfinite: int = _key(
        0,
        "how many updates may be skipped because a gradient was NaN or Inf; one more ends the run (exit "
        "code 5)",
        at_least=0,
    )
    max_overflows: int = _key(
        50,
        "fp16: how many updates in a row may be skipped because scaled gradients overflowed; that many end "
        "the run (exit code 5)",
        at_least=1,
    )
    min_loss_scale: float = _key(
        1.0, "fp16: the run ends (exit code 5) when the loss scale falls below this", above=0
    )
    precision: str = _key(
        "fp32", "of the forward and backward pass; weights stay fp32", choices=("fp32", "bf16", "fp16")
    )
    channels_last: bool = _key(
        False,
        "channels-last order in memory, which a GPU wants for convolutions in bf16 and fp16 (at ZeRO stage "
        "0 only)",
    )
    engine: str = _key(
        "auto",
        "auto: the launcher that started the script",
        choices=("auto", "ddp", "deepspeed", "accelerate", "colossalai"),
    )
    deepspeed: DeepSpeedConfig = _key(DeepSpeedConfig, "of the deepspeed engine")
    colossalai: ColossalAIConfig = _key(ColossalAIConfig, "of the colossalai engine")
    world_size: int = _key(
        0, "how many ranks this must run on, refused otherwise; 0: as many as were launched", at_least=0
    )
    fault_timeout: float = _key(
        60.0,
        "seconds within which all ranks end when a rank, a host or a launcher is lost or stopped (exit code "
        "4)",
        at_least=2,
    )
    run_dir: str = _key("", "where the run is kept; empty: runs/NAME-OF-THE-RECIPE")
    resume: str = _key(
        "auto", "auto: go on from the newest checkpoint in run_dir, if any", choices=("auto", "never")
    )
    evaluate_every: str = _key("1ep", "how often to score the validation set", duration=True)
    log_every: str = _key("10it", "how often to write a row to metrics.jsonl", duration=True)
    checkpoint: CheckpointConfig = _key(CheckpointConfig, "what is kept")
    measure: MeasureConfig = _key(MeasureConfig, "what a run measures of its landscape; see tools.landscape")
    # No key: it is not part of the experiment, and neither recipe.yaml nor a comparison of recipes knows it.
    expect: Expectation | None = field(default=None, compare=False, metadata={"omegaconf_ignore": True})

    def vary(self, *, expect: Expectation | None = None, **changes: Any) -> "Recipe":
        """A copy with differences; a nested part takes a dict of its own differences, a list or a dict of
        arguments is replaced whole.

        `expect`: the result that the copy is held against; its parent's is not inherited, for it is another
        experiment. The parent is left as it was. Raises RecipeError for a name, a type or a value that cannot
        be.
        """
        return dataclasses.replace(
            _replaced(copy.deepcopy(self), _checked_tree(type(self), changes, "")), expect=expect
        )

    def engine_under(self, own: str) -> str:
        """The engine that this recipe runs on where the launcher brings `own` with it."""
        return own if self.engine == "auto" else self.engine

    def with_overrides(self, words: Sequence[str]) -> "Recipe":
        """A copy with `key=value` words applied, later ones winning; its expectation knows what changed.
        Raises RecipeError.
        """
        tree: dict[str, Any] = {}
        for word in words:
            name, separator, text = word.partition("=")
            if not separator:
                raise RecipeError(
                    f"{word!r} is not an override: write key=value, for example batch_size=512 (--help "
                    "lists the keys)"
                )
            spec = _spec(type(self), name)
            *parents, leaf = name.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[leaf] = from_text(text, spec.type, name)
        varied = self.vary(**tree)
        if self.expect:
            varied.expect = dataclasses.replace(
                self.expect, changed=(*self.expect.changed, *_changes(self, varied))
            )
        return varied

    def zero_stage_under(self, engine: str) -> int:
        """What this engine shards; 0 for the engines that shard nothing."""
        return {"deepspeed": self.deepspeed.zero_stage, "colossalai": self.colossalai.zero_stage}.get(
            engine, 0
        )

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.structured(self))

    @classmethod
    def from_yaml(cls, text: str) -> "Recipe":
        """The inverse of `to_yaml`: every key stands there, and nothing is interpolated. Raises
        RecipeError.
        """
        try:
            tree = mapping_from_yaml(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise RecipeError(
                f"it is no recipe in YAML: {(str(error) or 'nesting').splitlines()[0]}"
            ) from error
        recipe = cls().vary(**tree)
        for name, _ in keys():
            branch: Any = tree
            for part in name.split("."):
                if part not in branch:
                    raise RecipeError(f"it lacks {name}")
                branch = branch[part]
        return recipe


def keys(config_type: type = Recipe, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every leaf key with its dotted name, in the order of the file."""
    for spec in dataclasses.fields(config_type):
        if "omegaconf_ignore" in spec.metadata:
            continue
        if dataclasses.is_dataclass(spec.type):
            yield from keys(typing.cast(type, spec.type), f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name, spec


def _changes(before: Recipe, after: Recipe) -> Iterator[str]:
    """What another experiment `after` is than the one whose result `before` expects, in words. Another seed
    is the same experiment.
    """
    same = MAY_CHANGE_ON_RESUME | {"seed", "data.format"}
    if before.expect and before.expect.evaluations > 1:
        same -= {"evaluate_every"}  # the result is a median over evaluations, wherever these are
    for name, _ in keys():
        read = attrgetter(name)
        if read(before) != read(after) and name not in same:
            yield f"{name} is {read(after)}, not {read(before)}"


def _spec(config_type: type, name: str) -> dataclasses.Field[Any]:
    known = dict(keys(config_type))
    if name in known:
        return known[name]
    if any(key.startswith(name + ".") for key in known):
        inside = ", ".join(key for key in known if key.startswith(name + "."))
        raise RecipeError(f"{name} is a group of keys: set one of {inside}")
    raise RecipeError(f"{name!r} is not a key of a recipe{_did_you_mean(name, list(known))}")


def _did_you_mean(name: str, known: list[str]) -> str:
    """The nearest key by spelling, also when only its last part was given (`momentum` for
    `optimizer.momentum`).
    """
    spelled = {key.rpartition(".")[2]: key for key in reversed(known)} | {key: key for key in known}
    near = difflib.get_close_matches(name, spelled, n=1, cutoff=0.7) or difflib.get_close_matches(
        name.rpartition(".")[2], spelled, n=1
    )
    return f": did you mean {spelled[near[0]]}?" if near else " (--help lists the keys)"


def _replaced(config: Any, changes: Mapping[str, Any]) -> Any:
    parts = {name: getattr(config, name) for name in changes}
    values = {
        name: _replaced(part, changes[name])
        if dataclasses.is_dataclass(part)
        else copy.deepcopy(changes[name])
        for name, part in parts.items()
    }
    return dataclasses.replace(config, **values)


def _checked_tree(config_type: type, changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    fields = {
        spec.name: spec for spec in dataclasses.fields(config_type) if "omegaconf_ignore" not in spec.metadata
    }
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in fields:
            _spec(Recipe, prefix + name)  # raises with the nearest key
        spec = fields[name]
        if dataclasses.is_dataclass(spec.type):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{prefix}{name} is a group of keys: give a dict, not {value!r}")
            tree[name] = _checked_tree(typing.cast(type, spec.type), value, f"{prefix}{name}.")
        else:
            tree[name] = checked(value, spec, prefix + name)
    return tree
