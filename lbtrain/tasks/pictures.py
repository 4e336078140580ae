"""What a detector found, drawn on the images: ground truth above, detections below."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from lbtrain.data.instances import Sample

# Okabe & Ito's colours, by class: told apart by colour-blind eyes and in print.
_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_HEIGHT = 320
_FONT = matplotlib.get_data_path() + "/fonts/ttf/DejaVuSans-Bold.ttf"


def drawn(
    samples: Sequence[Sample],
    found: Sequence[list[dict[str, Any]]],
    names: Sequence[str],
    labels: dict[int, int],
) -> NDArray[np.uint8]:
    """Columns of (ground truth, detections with a score from 0.5) of each sample, uint8 (height, width, 3),
    `_HEIGHT` pixels a row.

    names: of the labels 1, 2, ...; labels: by category id.
    """
    columns = []
    for sample, detections in zip(samples, found, strict=True):
        sure = [detection for detection in detections if detection["score"] >= 0.5]
        truth = on_image(
            sample,
            torch.from_numpy(sample.masks),
            sample.labels.tolist(),
            [names[label - 1] for label in sample.labels],
        )
        kept = [labels[detection["category_id"]] for detection in sure]
        words = [
            f"{names[label - 1]} {detection['score']:.2f}"
            for label, detection in zip(kept, sure, strict=True)
        ]
        masks = masks_of([detection["segmentation"] for detection in sure], sample.pixels)
        columns.append(np.concatenate([truth, on_image(sample, masks, kept, words)]))
    return np.concatenate(columns, 1)


def masks_of(outlines: list[dict[str, Any]], pixels: NDArray[np.uint8]) -> Tensor:
    """Compressed RLE of objects on an image -> uint8 (objects, height, width)."""
    decoded = [torch.from_numpy(rle.decode(outline)) for outline in outlines]
    return torch.stack(decoded) if decoded else torch.zeros(0, *pixels.shape[:2], dtype=torch.uint8)


def on_image(sample: Sample, masks: Tensor, labels: list[int], words: list[str]) -> NDArray[np.uint8]:
    """Enlarged or reduced to `_HEIGHT` pixels before anything is drawn, so that lines and letters are
    sharp.
    """
    width = max(1, round(sample.pixels.shape[1] * _HEIGHT / sample.pixels.shape[0]))
    image = torch.from_numpy(np.array(Image.fromarray(sample.pixels).resize((width, _HEIGHT)))).permute(
        2, 0, 1
    )
    large = _resized(masks, width)
    seen = [number for number, mask in enumerate(large) if mask.any()]
    if seen:
        colours = [_COLOURS[(labels[number] - 1) % len(_COLOURS)] for number in seen]
        image = draw_segmentation_masks(image, large[seen], alpha=0.5, colors=colours)
        boxes = torch.stack([_box(mask) for mask in large[seen]])
        image = draw_bounding_boxes(image, boxes, colors=colours, width=2)
        image = _labelled(image, boxes.tolist(), [words[number] for number in seen], colours)
    framed = torch.nn.functional.pad(image, (2, 2, 2, 2), value=255)
    return framed.permute(1, 2, 0).contiguous().numpy()


def _resized(masks: Tensor, width: int) -> Tensor:
    """Of a thin mask nothing may be left."""
    if not len(masks):
        return masks.new_zeros(0, _HEIGHT, width).bool()
    return torch.nn.functional.interpolate(masks[None], size=(_HEIGHT, width), mode="nearest")[0].bool()


def _labelled(
    image: Tensor, boxes: list[list[float]], words: list[str], colours: list[tuple[int, int, int]]
) -> Tensor:
    """Each word in the upper left corner of its box, moved inwards where it would leave the image."""
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    pen, font = ImageDraw.Draw(canvas), ImageFont.truetype(_FONT, 16)
    for (left, top, _, _), word, colour in zip(boxes, words, colours, strict=True):
        *_, width, height = pen.textbbox((0, 0), word, font=font, stroke_width=1)
        corner = (max(0, min(left + 4, canvas.width - width)), max(0, min(top + 2, canvas.height - height)))
        pen.text(corner, word, fill=colour, font=font, stroke_width=1, stroke_fill="black")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _box(mask: Tensor) -> Tensor:
    rows, columns = torch.where(mask.any(1))[0], torch.where(mask.any(0))[0]
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
