"""model.*: the network."""

from dataclasses import dataclass
from typing import Any

from lbtrain.recipe.sections.fields import Unassignable, key


@dataclass
class ModelConfig(Unassignable):
    name: str = key(
        "resnet50",
        "The network: any timm model, or one of lbtrain.nn (alexnet, alexnet_bn, reduced_alexnet, "
        "cifar_resnet8, cifar_resnet20, cifar_resnet32, cifar_resnet44, wide_resnet16_4, resnet50_v1, "
        "keskar_f1, keskar_f2, keskar_c1, keskar_c2, hoffer_c1, airbench94).",
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
    drop_path: float = key(
        0.0,
        "Share of the residual branches that an image skips in the last block, rising from 0 in the first "
        "(Huang et al. 2016; timm's drop_path_rate).",
        at_least=0,
        below=1,
        needs="model.library=timm",
    )
    library: str = key(
        "timm",
        "Where the model comes from: timm has classifiers, torchvision detectors on a timm backbone, "
        "detectron2 the Mask R-CNN of its configs.",
        choices=("timm", "torchvision", "detectron2"),
    )
    detector: str = key(
        "mask_rcnn",
        "torchvision's detector: Mask R-CNN finds masks and boxes, Faster R-CNN and RetinaNet boxes.",
        choices=("mask_rcnn", "faster_rcnn", "retinanet"),
        needs="model.library=torchvision",
    )
    weights: str = key(
        "",
        "Trained weights to start from: a file (.safetensors, .pth, .pt), a run directory, an exported "
        "folder, or a tag of timm such as a1_in1k. Empty: random weights.",
        path=True,
    )
    freeze: list[str] = key(
        [],
        "Parameters that are not trained, by patterns of names such as layer1.*. Batch norm whose "
        "parameters are all frozen keeps its stored statistics.",
        needs="model.library=timm|torchvision",
    )
    batch_norm: str = key(
        "ghost",
        "Batch norm: statistics over bn_batch_size images, over the whole batch, or frozen statistics "
        "(in the backbone of a detector only).",
        choices=("ghost", "sync", "frozen"),
    )

    @property
    def finds(self) -> tuple[str, ...]:
        """What a detector finds and is scored by, the first being the primary metric; nothing for a
        classifier.
        """
        if self.library == "timm":
            return ()
        return ("mask", "box") if self.detector == "mask_rcnn" else ("box",)
