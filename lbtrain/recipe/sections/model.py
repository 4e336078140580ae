"""model.*: the network."""

from dataclasses import dataclass
from typing import Any

from lbtrain.recipe.sections.fields import DETECTION, Unassignable, key


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
