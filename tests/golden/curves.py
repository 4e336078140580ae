"""The first losses of one recipe of each family, made small enough for a laptop.

python -m tests.golden.curves    write tests/golden/curves.csv anew, after a change that is meant
"""

import csv
from pathlib import Path

import torch

from lbtrain.recipe import Recipe
from lbtrain.recipe.files import load_recipe
from tests.unit.keys.rooms import losses, process_group_of_one, words

FILE = Path(__file__).parent / "curves.csv"
STEPS = 20
DIGITS = "data.name=digits data.train_examples=0 data.augmentation=none data.mean= data.std="
PHOTOS = "data.name=synthetic data.augmentation=none batch_size=16 bn_batch_size=8"
SHALLOW = "model.args={layers: [1, 1, 1, 1], channels: [8, 16, 32, 64], stem_width: 8}"
HEADS = (
    "model.args={backbone: {layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}, channels: 8, box_features: 8, "
    "mask_channels: 8, mask_layers: 1, rpn_post_nms_top_n_train: 20, rpn_post_nms_top_n_test: 5}"
)
FAMILIES = {
    "digits/digits": "",
    "digits/digits_720_lars": "batch_size=96",
    "digits/digits_720_lamb": "batch_size=96",
    "fashion_mnist/fashion_mnist": f"{DIGITS} batch_size=32 bn_batch_size=8",
    "cifar10/resnet44": f"{DIGITS} batch_size=32 bn_batch_size=8 model.name=cifar_resnet8",
    "cifar10/small_resnet8": f"{DIGITS} batch_size=16",
    "cifar10/small_alexnet": f"{DIGITS} batch_size=16",
    # At the recipe's own rate the rounding of another CPU grows to 3 % within these steps.
    "cifar10/wide_resnet": f"{DIGITS} batch_size=16 bn_batch_size=8 schedule.base_lr=0.002",
    "cifar10/resnet8_4k_muon": (
        f"{DIGITS} batch_size=32 bn_batch_size=8 precision=fp32 schedule.table=32:0.04 schedule.warmup=0ep"
    ),
    # Adam divides by gradients that are nearly zero at first: at the recipe's own rate rounding grows to 2 %.
    "mnist/keskar_f1": f"{DIGITS} batch_size=32 bn_batch_size=32 model.args.side=8 schedule.base_lr=0.00001",
    "imagenet/resnet50": f"{PHOTOS} data.image_size=32 {SHALLOW}",
    "imagenet/resnet50_lars_8k": f"{PHOTOS} data.image_size=32 {SHALLOW}",
    "imagenet/resnet50_lamb_32k": f"{PHOTOS} data.image_size=32 {SHALLOW}",
    "imagenet/alexnet": f"{PHOTOS} data.image_size=64 model.args={{hidden: 64}}",
    "imagenet/alexnet_bn_lars": f"{PHOTOS} data.image_size=64 model.args={{hidden: 64}}",
    "coco/mask_rcnn_shapes": f"batch_size=4 data.image_size=64 {HEADS}",
}
"""A recipe of each family, and what makes it small; the method stays."""


def small(name: str) -> Recipe:
    return load_recipe(name).with_overrides(words(f"engine=ddp data.workers=0 {FAMILIES[name]}"))


def curve(recipe: Recipe) -> list[float]:
    """On one thread, so that sums are made in one order. Needs a process group of one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return losses(recipe, STEPS)
    finally:
        torch.set_num_threads(threads)


def stored() -> dict[str, list[float]]:
    with FILE.open(newline="") as file:
        return {row["recipe"]: [float(row[f"step_{n}"]) for n in range(1, STEPS + 1)]
                for row in csv.DictReader(file)}  # fmt: skip


def write() -> None:
    with process_group_of_one(), FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["recipe", *(f"step_{number}" for number in range(1, STEPS + 1))])
        for name in FAMILIES:
            writer.writerow([name, *(f"{loss:.7g}" for loss in curve(small(name)))])
            print(name, flush=True)


if __name__ == "__main__":
    write()
