"""timm's own train.py on CIFAR-10: started with lbtrain's networks known to timm, and with images read as
lbtrain reads them.

    python -m bench.timm_train CHECKOUT OPTIONS    CHECKOUT is a clone of timm's repository

train.py pads no image before it crops; so the data set crops and flips, with torchvision's transforms.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import timm.models
from PIL import Image
from timm.data import dataset_factory
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

import lbtrain.nn  # noqa: F401 registers its models with timm
from lbtrain.data.arrays import read_arrays

IMPORTED = "bench: imported"
"""What is printed before train.py starts."""

CROP_FLIP = (v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip())


class Cifar10(Dataset[tuple[Any, int]]):
    """In memory, with the interface of torchvision's class of this name, which timm builds."""

    transform: Callable[[Any], Any]  # timm sets it

    def __init__(self, root: str, train: bool, **_: Any):
        self.images, self.labels = read_arrays("cifar10", Path(root), train=train)
        self.crop_flip = v2.Compose(CROP_FLIP) if train else v2.Identity()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index])
        return self.transform(self.crop_flip(image)), int(self.labels[index])


def create_model(name: str, *, drop_rate: float, **options: Any) -> nn.Module:
    """lbtrain's networks have no dropout, whose rate train.py always passes."""
    assert not drop_rate
    return timm.create_model(name, **options)


def main() -> None:
    checkout = Path(sys.argv.pop(1))
    with (
        mock.patch.object(timm.models, "create_model", create_model),
        mock.patch.dict(dataset_factory._TORCH_BASIC_DS, cifar10=Cifar10),
    ):
        print(IMPORTED, flush=True)
        runpy.run_path(str(checkout / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()
