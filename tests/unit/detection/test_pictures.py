"""What is drawn of an evaluation."""

import numpy as np
from pycocotools import mask as rle

from lbtrain.data.instances import Sample
from lbtrain.tasks.pictures import drawn

NAMES, LABELS = ("disc", "square"), {7: 1, 9: 2}


def sample(height: int, width: int, *masks: np.ndarray) -> Sample:
    stacked = np.stack([np.zeros((height, width), np.uint8), *masks])[1:]
    count = len(masks)
    return Sample(
        1,
        np.full((height, width, 3), 128, np.uint8),
        np.zeros((count, 4), np.float32),
        np.ones(count, np.int64),
        lambda: stacked,
    )


def found(mask: np.ndarray, score: float) -> dict:
    return {"category_id": 9, "score": score, "segmentation": rle.encode(np.asfortranarray(mask))}


def test_a_mask_too_thin_for_the_picture_is_left_out_of_it():
    thin, thick = np.zeros((1280, 960), np.uint8), np.zeros((1280, 960), np.uint8)
    thin[1], thick[400:800, 400:800] = 1, 1
    with_it, without = (
        drawn([sample(1280, 960, *masks)], [[found(mask, 0.9) for mask in masks]], NAMES, LABELS)
        for masks in ((thin, thick), (thick,))
    )
    assert with_it.shape == (2 * 324, 240 + 4, 3) and (with_it == without).all()
    assert (
        drawn([sample(1280, 960, thin)], [[found(thin, 0.9)]], NAMES, LABELS)
        == drawn([sample(1280, 960)], [[]], NAMES, LABELS)
    ).all()


def test_detections_are_drawn_from_a_score_of_one_half():
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 1
    picture = drawn([sample(64, 64, mask)], [[found(mask, 0.5), found(mask.T, 0.49)]], NAMES, LABELS)
    nothing = drawn([sample(64, 64, mask)], [[]], NAMES, LABELS)
    assert (picture[:324] == nothing[:324]).all() and (picture[324:] != nothing[324:]).any()


def test_labels_stay_in_the_image():
    """A box in the last column: its word is as whole as that of one in the middle, and the frame stays
    white.
    """
    corner = np.zeros((64, 64), np.uint8)
    corner[60:, 60:] = 1
    picture = drawn([sample(64, 64, corner)], [[]], ("a long name",), {7: 1})
    frame = np.ones(picture.shape[:2], bool)
    frame[2:322, 2:322] = frame[326:646, 2:322] = False
    assert (picture[frame] == 255).all()
    orange = (picture[2:322, 2:322] == (230, 159, 0)).all(2)
    assert orange[:, :240].any()  # the word begins far left of the box
