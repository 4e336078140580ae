"""The groups of keys of a recipe, each key with its type, its meaning, its range and its default."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.recipe import tree
from lbtrain.recipe.durations import BatchGrowth, Duration, Milestone, TableEntry

DETECTION = "model.library=torchvision|detectron2"
LAYERWISE = "optimizer.name=lars|lamb"
MOMENTUM = "optimizer.name=sgd|lars|muon"
MOMENTS = "optimizer.name=lamb|adamw|nadamw|muon"
PHOTOS = "data.name=imagenet|imagefolder"


def key(default: Any, help: str, **metadata: Any) -> Any:
    """A field with its meaning, its range (`choices`, `at_least`, `above`, `below`, `at_most`), whether it is
    a `path`, and the condition under which it acts (`needs`, see lbtrain.recipe.active).
    """
    metadata = {"help": help, **metadata}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def length(text: str, help: str, **metadata: Any) -> Any:
    return key(Duration.parse(text), help, **metadata)


class Unassignable:
    """A dataclass of keys whose values are set once. A later assignment would be checked by nothing: a wrong
    value, or a name that is no key, would go unnoticed.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {spec.name for spec in dataclasses.fields(self)}:  # type: ignore[arg-type]
            tree.spec_of(type(self), name, value)
        if name in vars(self):
            raise RecipeError(
                f"{name} is assigned, and nothing would check its value. Write recipe.vary(...), which "
                "returns a copy with differences."
            )
        super().__setattr__(name, value)


@dataclass
class ModelConfig(Unassignable):
    name: str = key(
        "resnet50",
        "The network: any timm model, or one of lbtrain.nn (alexnet, alexnet_bn, reduced_alexnet, "
        "cifar_resnet8, cifar_resnet20, cifar_resnet32, cifar_resnet44, wide_resnet16_4).",
    )
    args: dict[str, Any] = key(
        {},
        "More arguments of timm.create_model, one by one as model.args.img_size=64, or all as {key: value}.",
    )
    head_std: float = key(
        0.0,
        "Standard deviation of the classifier's initial weights. 0 keeps the model's own.",
        at_least=0,
        needs="model.library=timm",
    )
    library: str = key(
        "timm",
        "Where the model comes from: timm has classifiers, torchvision Mask R-CNN on a timm backbone, "
        "detectron2 the Mask R-CNN of its configs.",
        choices=("timm", "torchvision", "detectron2"),
    )
    weights: str = key(
        "",
        "A file of weights for the backbone of Mask R-CNN, such as a checkpoint of a ResNet-50 run. Empty: "
        "random weights.",
        path=True,
        needs=DETECTION,
    )
    batch_norm: str = key(
        "ghost",
        "Batch norm: statistics over bn_batch_size images, over the whole batch, or frozen statistics "
        "(in the backbone of Mask R-CNN only).",
        choices=("ghost", "sync", "frozen"),
    )


@dataclass
class DataConfig(Unassignable):
    name: str = key(
        "digits",
        "The data set.",
        choices=("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet", "imagefolder",
                 "synthetic", "shapes", "coco"),
    )  # fmt: skip
    root: str = key(
        "", "The root directory of the data set. Empty: the environment variable LBTRAIN_DATA.", path=True
    )
    format: str = key(
        "auto",
        "The on-disk layout of photos: auto, folder, tar, parquet or timm:hfds/NAME (see docs/data.md).",
        needs=PHOTOS,
    )
    augmentation: str = key(
        "none",
        "Augmentation of training images. crop_flip is for small images and flip for detection; imagenet "
        "(Goyal et al. 2017), imagenet_color and alexnet are for photos. alexnet keeps pixels at Caffe's "
        "scale of 0 to 255, also for evaluation.",
        choices=("none", "crop_flip", "imagenet", "imagenet_color", "alexnet", "flip"),
        needs="model.library=timm|torchvision",
    )
    on_error: str = key(
        "raise",
        "What to do with an image that cannot be read: stop and name it, or replace it by the next one and "
        "count it.",
        choices=("raise", "replace"),
        needs=PHOTOS,
    )
    image_size: int = key(
        0,
        "Height and width of the images in pixels. 0: the data set's own size.",
        at_least=0,
        needs="model.library=timm|torchvision",
    )
    mean: list[str] = key(
        [],
        "Mean per channel, where black is 0 and white 1, such as 0.485,0.456,0.406. Empty: the model's own "
        "for photos, the data set's for small images.",
        level=True,
    )
    std: list[str] = key(
        [],
        "Standard deviation per channel, where black is 0 and white 1. Empty: as for mean.",
        level=True,
    )
    crop_share: float = key(
        0.0,
        "Share of a photo's shorter side that the centre crop keeps. 0: the model's own (0.875 is 224 of "
        "256).",
        at_least=0,
        at_most=1,
        needs=PHOTOS,
    )
    interpolation: str = key(
        "model",
        "Interpolation by which photos are resized. model: the model's own.",
        choices=("model", "bilinear", "bicubic"),
        needs=PHOTOS,
    )
    max_pixels: int = key(
        89_478_485,
        "An image of more pixels is taken for a decompression bomb and cannot be read.",
        at_least=1,
    )
    classes: str = key(
        "",
        "A file that numbers the classes of photos: one name per line, or JSON {name: number}. Other "
        "classes are left out. Empty: natural order.",
        path=True,
        needs=PHOTOS,
    )
    validation_root: str = key(
        "",
        "The root directory of the validation photos. Empty: data.root. none: train without validation.",
        path=True,
        needs=PHOTOS,
    )
    validation_share: float = key(
        0.0,
        "Share of each class of photos that is held out for validation, where data.root has no validation "
        "split.",
        at_least=0,
        below=1,
        needs=PHOTOS,
    )
    train_examples: int = key(
        0,
        "Number of training examples to use, taken from the beginning of a data set that is held in memory. "
        "0: all.",
        at_least=0,
    )
    max_size: int = key(
        0,
        "Upper bound of an image's long edge in detection, in pixels. 0: no bound.",
        at_least=0,
        needs="model.library=torchvision",
    )
    short_edges: list[str] = key(
        [],
        "Lengths in pixels from which an image's short edge is drawn in detection training. The last one is "
        "used for evaluation. Empty: image_size.",
        pixels=True,
        needs="model.library=torchvision",
    )
    group_by: str = key(
        "none",
        "Form the batches of detection from images of the same orientation, or of similar padded size.",
        choices=("none", "aspect", "size"),
        needs=DETECTION,
    )
    empty_images: bool = key(False, "Train detection on images without objects too.", needs="data.name=coco")
    workers: int = key(
        0, "Loader processes per rank. 0: load in the training process.", at_least=0, at_most=128
    )


@dataclass
class OptimizerConfig(Unassignable):
    name: str = key("sgd", "The optimizer.", choices=("sgd", "lars", "lamb", "adamw", "nadamw", "muon"))
    momentum: float = key(0.9, "Momentum of SGD, LARS and Muon.", at_least=0, below=1, needs=MOMENTUM)
    nesterov: bool = key(False, "Use Nesterov momentum.", needs=(MOMENTUM, "optimizer.momentum"))
    weight_decay: float = key(
        1e-4,
        "Weight decay of the parameters that no_decay does not exclude. It is never scaled with the loss.",
        at_least=0,
    )
    no_decay: list[str] = key(
        ["norm", "bias"],
        "Parameters excluded from weight decay: norm, bias, or patterns of names such as head.*.",
    )
    no_trust_ratio: list[str] = key(
        ["norm", "bias"],
        "Parameters excluded from the trust ratio of LARS and LAMB: norm, bias, or patterns of names such "
        "as head.*.",
        needs=LAYERWISE,
    )
    trust_coefficient: float = key(
        0.001,
        "The trust coefficient eta of LARS (You et al. 2017).",
        above=0,
        needs="optimizer.name=lars",
    )
    trust_clip: float = key(0.0, "Upper bound of the trust ratio. 0: no bound.", at_least=0, needs=LAYERWISE)
    larc_clip: bool = key(
        False, "Never let a layer's rate exceed the global one (LARC).", needs="optimizer.name=lars"
    )
    clip_value: float = key(
        0.0,
        "Limit every element of LARS's decayed gradient to this size. 0: no limit.",
        at_least=0,
        needs="optimizer.name=lars",
    )
    momentum_scaling: str = key(
        "lr_and_trust_ratio",
        "What scales the gradient before it enters LARS's momentum buffer: learning rate and trust ratio "
        "(You et al. 2017), the trust ratio alone, or neither. What is left scales the whole buffer at every "
        "step.",
        choices=("lr_and_trust_ratio", "trust_ratio", "none"),
        needs="optimizer.name=lars",
    )
    eps: float = key(
        1e-6,
        "The epsilon in the denominator of LAMB, AdamW and NAdamW (and of Muon's AdamW). LARS adds it to the "
        "gradient norm.",
        at_least=0,
        needs="optimizer.name=lars|lamb|adamw|nadamw|muon",
    )
    beta1: float = key(
        0.9, "Decay of the first moment of LAMB, AdamW and NAdamW.", at_least=0, below=1, needs=MOMENTS
    )
    beta2: float = key(
        0.999, "Decay of the second moment of LAMB, AdamW and NAdamW.", at_least=0, below=1, needs=MOMENTS
    )
    bias_correction: bool = key(
        True, "Correct LAMB's moments for their start at 0.", needs="optimizer.name=lamb"
    )
    no_muon: list[str] = key(
        ["first", "head"],
        "Weights of linear layers and convolutions that Muon leaves to AdamW: first (the layer that sees the "
        "image), head (the classifier), or patterns of names such as patch_embed.*.",
        needs="optimizer.name=muon",
    )
    newton_schulz_steps: int = key(
        5, "Newton-Schulz iterations of Muon.", at_least=1, at_most=20, needs="optimizer.name=muon"
    )
    rate_adjustment: str = key(
        "original",
        "What Muon's updates are multiplied with: sqrt(max(1, rows / columns)) (Jordan et al. 2024), or "
        "0.2 sqrt(max(rows, columns)) (Liu et al. 2025), with which the rates of AdamW carry over.",
        choices=("original", "match_rms_adamw"),
        needs="optimizer.name=muon",
    )
    adamw_lr_ratio: float = key(
        1.0,
        "Learning rate of the parameters that Muon leaves to AdamW, as a multiple of Muon's.",
        above=0,
        needs="optimizer.name=muon",
    )
    layer_decay: float = key(
        1.0,
        "Learning rate of each layer as a multiple of the next layer's, counted from the classifier, as in "
        "timm (0.65 to 0.9 for fine-tuning). 1: the same rate for all layers.",
        above=0,
        at_most=1,
        needs="model.library=timm",
    )
    head_lr_ratio: float = key(
        1.0,
        "Learning rate of the classifier as a multiple of the other layers'.",
        above=0,
        needs="model.library=timm",
    )
    clip_norm: float = key(0.0, "Clip the global gradient norm to this value. 0: no clipping.", at_least=0)


@dataclass
class ScheduleConfig(Unassignable):
    base_lr: float = key(
        0.1,
        "The learning rate at base_batch_size. The scaling rule derives the peak learning rate from the two.",
        at_least=0,
        needs="schedule.rule=linear|sqrt|none",
    )
    base_batch_size: int = key(256, "The global batch size at which base_lr was found.", at_least=1)
    base_momentum: float | None = key(
        None,
        "The momentum at which base_lr was found, if it differs from optimizer.momentum. The rule then "
        "scales lr / (1 - momentum) (Smith et al. 2018). null: the same momentum.",
        at_least=0,
        below=1,
        needs=("schedule.rule=linear|sqrt|none", "optimizer.name=sgd|lars"),
    )
    rule: str = key(
        "linear",
        "How the peak learning rate follows the batch size: in proportion (Goyal et al. 2017), with its "
        "square root (Krizhevsky 2014), not at all, or by schedule.table.",
        choices=("linear", "sqrt", "none", "table"),
    )
    table: list[TableEntry] = key(
        [], "Learning rates by batch size, such as 512:4,8192:16.", needs="schedule.rule=table"
    )
    regime_adaptation: bool = key(
        False,
        "Multiply all durations in epochs by ceil(batch_size / base_batch_size), for as many steps as with "
        "the small batch (Hoffer et al. 2017).",
    )
    warmup: Duration = length("5ep", "Length of the warm-up. 0ep: no warm-up.")
    warmup_start_lr: float | None = key(
        None,
        "The learning rate at which the warm-up starts. null: base_lr (Goyal et al. 2017, section 2.2).",
        at_least=0,
        needs="schedule.warmup",
    )
    warmup_start_share: float | None = key(
        None,
        "The learning rate at which the warm-up starts, as a share of the peak.",
        at_least=0,
        at_most=1,
        needs="schedule.warmup",
    )
    warmup_rule: str = key(
        "none",
        "How the length of the warm-up follows the batch size: linear multiplies it by batch_size / "
        "base_batch_size.",
        choices=("none", "linear"),
        needs="schedule.warmup",
    )
    warmup_form: str = key(
        "gradual",
        "Shape of the warm-up: a ramp to the peak, or the start rate throughout.",
        choices=("gradual", "constant"),
        needs="schedule.warmup",
    )
    decay: str = key(
        "step",
        "Shape of the learning rate after the warm-up.",
        choices=("step", "poly", "cosine", "none"),
    )
    milestones: list[Milestone] = key(
        [Milestone.parse(f"{epoch}ep") for epoch in (30, 60, 80)],
        "Where a step decay multiplies the learning rate by schedule.factor, or by a factor of the "
        "milestone's own (60ep:0.2).",
        needs="schedule.decay=step",
    )
    factor: float = key(0.1, "The factor of a step decay.", above=0, at_most=1, needs="schedule.decay=step")
    batch_growth: list[BatchGrowth] = key(
        [],
        "Where the batch size is multiplied, and by what, such as 60ep:5 (Smith et al. 2018). The learning "
        "rate stays the same.",
    )
    power: float = key(
        2.0,
        "The power of a polynomial decay (1 - progress) ** power (You et al. 2017).",
        above=0,
        needs="schedule.decay=poly",
    )
    decay_from: str = key(
        "warmup_end",
        "Where a poly or cosine decay starts. start: at the start of the run, so that the rate drops at the "
        "end of the warm-up (You et al. 2017).",
        choices=("warmup_end", "start"),
        needs=("schedule.decay=poly|cosine", "schedule.warmup"),
    )


@dataclass
class LossConfig(Unassignable):
    label_smoothing: float = key(
        0.0,
        "Share of a label that is spread evenly over all classes.",
        at_least=0,
        below=1,
        needs="model.library=timm",
    )
    mixup: float = key(
        0.0,
        "Alpha of the Beta distribution that mixes images within a batch-norm batch (Zhang et al. 2018). 0: "
        "no mixup.",
        at_least=0,
        needs="model.library=timm",
    )
    multiplicative_noise: float = key(
        0.0,
        "Sigma of the normal distribution around 1 that weights the loss of each example (Hoffer et al. "
        "2017, section 4).",
        at_least=0,
        needs="model.library=timm",
    )


@dataclass
class AbsaConfig(Unassignable):
    max_batch_size: int = key(
        0,
        "The batch doubles up to this size as the loss becomes flatter (Yao et al. 2018). 0: no ABSA.",
        at_least=0,
    )
    every: Duration = length(
        "1ep", "How often to measure the largest Hessian eigenvalue.", needs="absa.max_batch_size"
    )
    patience: int = key(
        10,
        "Number of measurements without growth after which the batch doubles anyway. 0: never.",
        at_least=0,
        needs="absa.max_batch_size",
    )
    adversarial_share: float = key(
        0.2,
        "Share of the images that FGSM perturbs at the first batch size. It halves with every doubling.",
        at_least=0,
        at_most=1,
        needs="absa.max_batch_size",
    )
    adversarial_step: float = key(
        0.005,
        "The epsilon of FGSM, in units of the normalised images.",
        at_least=0,
        needs="absa.max_batch_size",
    )
    adversarial_until: Duration = length(
        "0.5dur", "No image is perturbed from here on.", needs="absa.max_batch_size"
    )


@dataclass
class AverageConfig(Unassignable):
    decay: float = key(
        0.0,
        "Decay per step of the moving average of the weights (timm's ModelEmaV3). 0: no average.",
        at_least=0,
        below=1,
    )
    warmup: bool = key(False, "Use a smaller decay in the first steps.", needs="ema.decay")


@dataclass
class CheckpointConfig(Unassignable):
    every: Duration = length("1ep", "How often to save a checkpoint.")
    keep: int = key(2, "How many of the newest checkpoints to keep.", at_least=1)


@dataclass
class DeepSpeedConfig(Unassignable):
    zero_stage: int = key(
        0,
        "ZeRO stage: 0 is plain data parallelism, 1 shards optimizer states, 2 also gradients, 3 also "
        "weights.",
        choices=(0, 1, 2, 3),
    )
    config: str = key(
        "",
        "A DeepSpeed JSON file with settings that do not change the mathematics, such as buckets and "
        "offload (see recipes/deepspeed).",
        path=True,
    )


@dataclass
class ColossalAIConfig(Unassignable):
    zero_stage: int = key(
        0,
        "ZeRO stage: 0 is plain data parallelism (TorchDDPPlugin), 1 shards optimizer states, 2 also "
        "gradients (LowLevelZero).",
        choices=(0, 1, 2, 3),
    )


@dataclass
class MeasureConfig(Unassignable):
    noise_scale: Duration = length(
        "0it", "How often to measure the gradient noise scale, such as 50it. 0it: never."
    )
    layers: bool = key(
        False,
        "Also record noise scale, weight norm and gradient norm of every layer (You et al. 2017, Table 2).",
        needs="measure.noise_scale",
    )
    distance: bool = key(
        False,
        "Record with every logged row how far the weights are from their initial values. This keeps a copy "
        "of the initial values.",
    )
