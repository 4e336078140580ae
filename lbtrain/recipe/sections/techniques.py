"""loss.*, absa.*, ema.*: what a recipe switches on beside the update."""

from dataclasses import dataclass

from lbtrain.recipe.durations import Duration
from lbtrain.recipe.sections.fields import Unassignable, key, length


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
        "Alpha of the Beta distribution that mixes images within a group of bn_batch_size (Zhang et al. "
        "2018). 0: no mixup.",
        at_least=0,
        needs="model.library=timm",
    )
    cutmix: float = key(
        0.0,
        "Alpha of the Beta distribution of the area that an image of the same group of bn_batch_size "
        "replaces (Yun et al. 2019). 0: no CutMix.",
        at_least=0,
        needs="model.library=timm",
    )
    cutmix_share: float = key(
        0.5,
        "Share of the groups that get CutMix where mixup and CutMix are both set.",
        at_least=0,
        at_most=1,
        needs=("loss.mixup", "loss.cutmix"),
    )
    form: str = key(
        "cross_entropy",
        "Cross-entropy over the classes, or the mean over all classes of binary cross-entropies (Wightman "
        "et al. 2021).",
        choices=("cross_entropy", "binary_cross_entropy"),
        needs="model.library=timm",
    )
    target_threshold: float | None = key(
        None,
        "Labels above this count as 1 and others as 0 in binary cross-entropy. null: as they are.",
        at_least=0,
        below=1,
        needs="loss.form=binary_cross_entropy",
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
    base_batch_size: int = key(
        0,
        "The batch size at which the decay was found. A batch k times as large decays by decay ** k, for "
        "the same memory in images (Busbridge et al. 2023). 0: the decay is that of this batch.",
        at_least=0,
        needs="ema.decay",
    )
    warmup: bool = key(False, "Use a smaller decay in the first steps.", needs="ema.decay")
