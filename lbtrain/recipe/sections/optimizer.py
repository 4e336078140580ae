"""optimizer.*: how a gradient becomes an update."""

from dataclasses import dataclass

from lbtrain.recipe.durations import TableEntry
from lbtrain.recipe.sections.fields import Unassignable, key

LAYERWISE = "optimizer.name=lars|lamb"
MOMENTUM = "optimizer.name=sgd|lars|muon"
MOMENTS = "optimizer.name=lamb|adamw|nadamw|muon"


@dataclass
class OptimizerConfig(Unassignable):
    name: str = key("sgd", "The optimizer.", choices=("sgd", "lars", "lamb", "adamw", "nadamw", "muon"))
    momentum: float = key(
        0.9,
        "Momentum of SGD, LARS and Muon.",
        at_least=0,
        below=1,
        needs=(MOMENTUM, "optimizer.momentum_table=[]"),
    )
    momentum_table: list[TableEntry] = key(
        [],
        "Momentum by batch size, such as 8192:0.9,32768:0.94, in place of optimizer.momentum.",
        needs=MOMENTUM,
    )
    nesterov: bool = key(False, "Use Nesterov momentum.", needs=(MOMENTUM, "optimizer.momentum"))
    weight_decay: float = key(
        1e-4,
        "Weight decay of the parameters that no_decay does not exclude. It is never scaled with the loss.",
        at_least=0,
    )
    no_decay: list[str] = key(
        ["norm", "bias"],
        "Parameters excluded from weight decay: norm, bias, or patterns of names such as head.*.",
        needs="optimizer.weight_decay",
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
