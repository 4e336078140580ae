"""data.*: the images."""

from dataclasses import dataclass

from lbtrain.recipe.sections.fields import (
    COCO_FORMAT,
    DETECTION,
    OF_COCO,
    PHOTOS,
    SPLIT_PHOTOS,
    Unassignable,
    key,
)

_NORMALISED = (
    "model.library=timm|torchvision",  # detectron2 has MODEL.PIXEL_MEAN and MODEL.PIXEL_STD
    f"data.name=digits|mnist|fashion_mnist|cifar10|cifar100|shapes|{SPLIT_PHOTOS.removeprefix('data.name=')}",
)
"""Where the inputs have a mean and a deviation to set: noise has none."""


@dataclass
class DataConfig(Unassignable):
    name: str = key(
        "digits",
        "The data set.",
        choices=("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet", "imagefolder",
                 "synthetic", "shapes", *COCO_FORMAT),
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
    min_crop_area: float = key(
        0.08,
        "Share of a photo's area that a random box of imagenet and imagenet_color has at least.",
        above=0,
        at_most=1,
        needs="data.augmentation=imagenet|imagenet_color",
    )
    auto_augment: str = key(
        "",
        "Policy of operators after cropping and flipping: timm's words (rand-m9-mstd0.5-inc1, original, v0, "
        "3a), or ta_wide for torchvision's TrivialAugmentWide. Empty: none.",
        policy=True,
        needs="model.library=timm",
    )
    color_jitter: float = key(
        0.0,
        "Brightness, contrast and saturation change by up to this share (torchvision's ColorJitter). 0: "
        "none.",
        at_least=0,
        at_most=1,
        needs="model.library=timm",
    )
    random_erasing: float = key(
        0.0,
        "Probability that a box of an image is erased (Zhong et al. 2020, as in timm).",
        at_least=0,
        at_most=1,
        needs="model.library=timm",
    )
    erasing_mode: str = key(
        "const",
        "What replaces an erased box: the mean, one random colour, or a random colour per pixel.",
        choices=("const", "rand", "pixel"),
        needs="data.random_erasing",
    )
    repeats: int = key(
        1,
        "Repeated augmentation (Hoffer et al. 2020): an epoch shows each image of a part of the data set "
        "this many times, in neighbouring groups of bn_batch_size images.",
        at_least=1,
        at_most=64,
        needs="model.library=timm",
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
        needs=(
            "model.library=timm|torchvision",
            "data.short_edges=[] or data.name=shapes or model.library=timm",  # photos have their own size
        ),
    )
    mean: list[str] = key(
        [],
        "Mean per channel, where black is 0 and white 1, such as 0.485,0.456,0.406. Empty: the model's own "
        "for photos, the data set's for small images, ImageNet's for detectors.",
        level=True,
        needs=_NORMALISED,
    )
    std: list[str] = key(
        [],
        "Standard deviation per channel, where black is 0 and white 1. Empty: as for mean.",
        level=True,
        divisor=True,
        needs=_NORMALISED,
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
        needs=f"data.name=mnist|fashion_mnist|cifar10|cifar100|{SPLIT_PHOTOS.removeprefix('data.name=')}",
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
        needs=SPLIT_PHOTOS,
    )
    validation_share: float = key(
        0.0,
        "Share of each class of photos that is held out for validation, where data.root has no validation "
        "split.",
        at_least=0,
        below=1,
        needs=SPLIT_PHOTOS,
    )
    train_files: list[str] = key(
        [],
        "The JSON file and the folder of photos of COCO's training split, relative to data.root: "
        "train.json,photos. Empty: found in the layouts of docs/detection.md.",
        path=True,
        needs=OF_COCO,
    )
    validation_files: list[str] = key(
        [],
        "The same for the validation split.",
        path=True,
        needs=OF_COCO,
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
        needs=("model.library=torchvision", "data.square=False"),
    )
    square: bool = key(
        False,
        "Stretch the images of detection to squares of short_edges, as MLPerf's RetinaNet does.",
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
    empty_images: bool = key(False, "Train detection on images without objects too.", needs=OF_COCO)
    workers: int = key(
        0, "Loader processes per rank. 0: load in the training process.", at_least=0, at_most=128
    )
