"""What a detector finds on images of one's own: rows, and pictures with masks or filled boxes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lbtrain.data.decode import opened, rgb, upright
from lbtrain.data.instances import Item, Preparation, Sample, padded
from lbtrain.data.stream import Block
from lbtrain.errors import RecipeError
from lbtrain.launch.world import device_type
from lbtrain.runs.files import saving
from lbtrain.tasks.coco_score import outlines_of
from lbtrain.tasks.pictures import masks_of, on_image
from lbtrain.trained.images import readable
from lbtrain.trained.model import TrainedModel


class _OneImage:
    """As a source of a single image without known objects."""

    def __init__(self, pixels: np.ndarray[Any, Any]):
        self.sizes = np.array([pixels.shape[:2]])
        masks = np.zeros((0, *pixels.shape[:2]), np.uint8)
        self.sample = Sample(0, pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), lambda: masks)

    def __getitem__(self, index: int) -> Sample:
        return self.sample


@torch.no_grad()
def detected(
    trained: TrainedModel, paths: Sequence[Path], least: float, pictures: str | None, broken: list[str]
) -> Iterator[dict[str, Any]]:
    """A row per object with a score from `least`: image, class, score, and its box in pixels (left, top,
    right, bottom). Draws into the folder `pictures`, if there is one.
    """
    if trained.recipe.model.library != "torchvision":
        raise RecipeError("predict takes classifiers and detectors with model.library=torchvision.")
    device = torch.device(device_type())
    model, names = trained.build().to(device), trained.class_names
    size, longest = trained.inputs["size"], trained.inputs["longest"]
    preparation = Preparation((size,), longest, flip=False, seed=0, square=trained.inputs["square"])
    most = trained.recipe.data.max_pixels
    block = Block.of(np.zeros(1, np.int64))
    for number, path, pixels in readable(paths, lambda data: rgb(upright(opened(data, most))), broken):
        source: Any = _OneImage(pixels)
        pad_to = padded(preparation.sizes(block, source.sizes))
        found = model(preparation.batch(source, Item(block, pad_to)).to(device))[0]
        sure = found["scores"] >= least
        labels, scores = found["labels"][sure].tolist(), found["scores"][sure].tolist()
        for label, score, box in zip(labels, scores, found["boxes"][sure].tolist(), strict=True):
            corners = dict(zip(("left", "top", "right", "bottom"), (round(x, 1) for x in box), strict=True))
            yield {"image": str(path), "class": names[label - 1], "score": round(score, 6), **corners}
        if pictures:
            outlines = outlines_of({name: value[sure] for name, value in found.items()}, pixels.shape[:2])
            words = [f"{names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
            picture = Image.fromarray(on_image(source.sample, masks_of(outlines, pixels), labels, words))
            with saving(Path(pictures)):
                Path(pictures).mkdir(parents=True, exist_ok=True)
                picture.save(Path(pictures) / f"{number:05}_{path.stem}.png")
