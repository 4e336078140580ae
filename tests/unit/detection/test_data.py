"""Shapes, COCO's format, augmentation per image, groups of like images."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from bench.padding import padding_share
from lbtrain import Recipe
from lbtrain.data import coco, coco_photos, dataset_info, decode, index_cache, instances
from lbtrain.data.annotations import read_annotations
from lbtrain.data.coco import CocoSource
from lbtrain.data.coco_layouts import coco_files
from lbtrain.data.coco_splits import _opened
from lbtrain.data.grouping import GroupedStream, kinds_of
from lbtrain.data.instances import Item, Preparation, Sample, padded
from lbtrain.data.outlines import check_outline, encoded, holds_pixel, mask_of, touches_image
from lbtrain.data.shapes import ShapesSource, draw
from lbtrain.data.stream import Block, SampleStream
from lbtrain.errors import DataError, RecipeError
from lbtrain.tasks import create_task
from lbtrain.tasks.coco_score import NAMES, TWELVE_NAMES, as_detections, outlines_of, with_classes
from lbtrain.tasks.detection import evaluation_items
from lbtrain.tasks.torchvision_models import _Padding
from tests.tiny_detection import KINDS, tiny


def test_a_shape_is_a_function_of_its_number():
    one, again, other = draw(3, 96), draw(3, 96), draw(4, 96)
    assert (one.pixels == again.pixels).all() and (one.masks == again.masks).all()
    assert (one.pixels != other.pixels).any()


def test_masks_do_not_overlap_and_fill_their_boxes():
    samples = [draw(number, 96) for number in range(200)]
    assert {len(sample.labels) for sample in samples} == {0, 1, 2, 3, 4, 5}
    assert set(np.concatenate([sample.labels for sample in samples])) == {1, 2, 3, 4}
    for sample in samples:
        assert len(sample.boxes) == len(sample.labels) == len(sample.masks)
        assert sample.masks.sum(0).max(initial=0) <= 1
        for box, mask in zip(sample.boxes.astype(int), sample.masks, strict=True):
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert (
                mask[top].any()
                and mask[bottom - 1].any()
                and mask[:, left].any()
                and mask[:, right - 1].any()
            )


def test_training_and_evaluation_share_no_shape():
    train, evaluation = ShapesSource(50, 32, first=10**6), ShapesSource(50, 32, first=1)
    assert not {train.image_id(i) for i in range(50)} & {evaluation.image_id(i) for i in range(50)}


def test_an_image_is_augmented_alike_in_any_company_and_its_masks_move_with_it():
    source, prepare = ShapesSource(40, 64, first=1), Preparation((64, 80, 96), 90, flip=True, seed=1)
    block = SampleStream(40, 0).block(30, 20)  # over the end of an epoch
    sizes = prepare.sizes(block, source.sizes[block.indices])
    whole = prepare.batch(source, Item(block, padded(sizes)))
    assert len({image.shape for image in whole.images}) > 1 and sizes.max() <= 90
    for number in range(20):
        part = prepare.batch(
            source,
            Item(Block(block.epochs[number : number + 1], block.indices[number : number + 1]), (96, 96)),
        )
        assert (part.images[0] == whole.images[number]).all() and part.keys[0] == whole.keys[number]
        target = part.targets[0]
        assert part.images[0].shape[1:] == tuple(sizes[number])
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert abs(tight - box.numpy()).max() < 1.6
    assert len(set(whole.keys)) == 20


@pytest.mark.parametrize(("examples", "batch_size"), [(100, 8), (96, 8), (7, 8), (50, 1), (33, 32)])
def test_groups_keep_every_example_once_an_epoch_and_most_steps_of_one_kind(examples, batch_size):
    kinds = np.random.default_rng(0).integers(0, 2, examples)
    stream = GroupedStream(SampleStream(examples, 0), kinds, batch_size)
    for epoch in range(4):
        assert sorted(stream.block(epoch * examples, examples).indices) == list(range(examples))
    steps = [stream.block(start, batch_size).indices for start in range(0, 4 * examples, batch_size)]
    mixed = sum(len(set(kinds[step])) > 1 for step in steps)
    assert mixed <= 4 * 4
    if examples == 100:
        assert (
            mixed
            < len(steps) / 2
            < sum(len(set(kinds[s.indices])) > 1 for s in _plain_steps(examples, batch_size))
        )


def _plain_steps(examples: int, batch_size: int) -> list[Block]:
    return [
        SampleStream(examples, 0).block(start, batch_size) for start in range(0, 4 * examples, batch_size)
    ]


def test_groups_do_not_depend_on_the_batch_split():
    stream = GroupedStream(SampleStream(50, 3), np.arange(50) % 3, 8)
    whole = stream.block(0, 160).indices
    assert (np.concatenate([stream.block(start, 2).indices for start in range(0, 160, 2)]) == whole).all()


def test_kinds():
    sizes = np.array([[480, 640], [640, 480], [480, 480], [427, 640]])
    assert kinds_of(sizes, "aspect").tolist() == [0, 1, 0, 0]
    assert kinds_of(sizes, "size").tolist() == [2, -2, 0, 2]


def test_padding_is_counted_over_whole_steps():
    """By hand: 480 x 640 becomes 800 x 1067 in 800 x 1088; two upright ones among them make every mixed step
    1088 x 1088.
    """
    recipe = Recipe().vary(batch_size=2, data=dict(name="coco", short_edges=["800"], max_size=1333))
    alike, mixed = np.array([[480, 640]] * 5), np.array([[480, 640], [640, 480]] * 2)
    assert padding_share(recipe, alike) == pytest.approx(1 - 1067 / 1088)
    assert padding_share(recipe.vary(data=dict(group_by="aspect")), mixed) == pytest.approx(1 - 1067 / 1088)
    assert padding_share(recipe, mixed) in (
        pytest.approx(1 - 1067 / 1088),
        pytest.approx(1 - 800 * 1067 / 1088**2),
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_evaluation_scores_every_image_once_in_batches_of_one_size(world_size):
    source = ShapesSource(11, 64, first=1)
    source.sizes[3:7] = (64, 100)
    prepare = Preparation((64,), 0, flip=False, seed=0)
    shares = [evaluation_items(source, prepare, 4, rank, world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    scored = [
        index for share in shares for item in share for index in item.block.indices[item.block.epochs >= 0]
    ]
    assert sorted(scored) == list(range(11))


def coco_folder(root: Path, **changes) -> Path:
    """Two photos, of which one has no object; `changes` break the first annotation."""
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in (1, 2):
        Image.new("RGB", (40, 30)).save(root / f"train2017/{number}.jpg")
    annotation = {"id": 7, "image_id": 1, "category_id": 18, "bbox": [5, 5, 10, 10], "iscrowd": 0,
                  "area": 100, "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]} | changes  # fmt: skip
    crowd = {"id": 8, "image_id": 2, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1, "area": 9,
             "segmentation": {"counts": [0, 1200], "size": [30, 40]}}  # fmt: skip
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 30, "width": 40} for number in (1, 2)]
    content = {
        "images": images,
        "annotations": [annotation, crowd],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return root


def opened(root: Path, split: str = "train", **options) -> CocoSource:
    return CocoSource(read_annotations(coco_files(root, split)), **options)


def shapes_as_coco(root: Path, count: int = 8) -> Path:
    """Drawn shapes written as a COCO folder."""
    for split, first in (("train2017", 1), ("val2017", 101)):
        source = ShapesSource(count, 64, first=first)
        truth = source.ground_truth()
        (root / split).mkdir()
        (root / "annotations").mkdir(exist_ok=True)
        for index, image in enumerate(truth["images"]):
            image["file_name"] = f"{image['id']}.png"
            Image.fromarray(source[index].pixels).save(root / split / image["file_name"])
        for annotation in truth["annotations"]:
            annotation["segmentation"]["counts"] = annotation["segmentation"]["counts"].decode()
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(truth))
    return root


def test_shapes_written_as_coco_are_read_alike(tmp_path):
    source = opened(shapes_as_coco(tmp_path), empty_images=True)
    for index in range(len(source)):
        drawn, read = draw(index + 1, 64), source[index]
        assert (
            (drawn.pixels == read.pixels).all()
            and (drawn.masks == read.masks).all()
            and (drawn.boxes == read.boxes).all()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_decoded_for_models_that_find_them_and_nothing_else_changes(kind, tmp_path, monkeypatch):
    shapes_as_coco(tmp_path)
    decoded = []
    monkeypatch.setattr(coco, "mask_of", lambda *outline: decoded.append(outline) or mask_of(*outline))
    data = dict(name="coco", root=str(tmp_path), image_size=0, short_edges=["48", "80"], max_size=96)
    task = create_task(tiny(**KINDS[kind]).vary(data=data), torch.device("cpu"))
    batch = next(task.batches(start=0, micro_batch_size=8, rank=0, world_size=1))
    assert bool(decoded) == ("masks" in batch.targets[0]) == (kind == "mask_rcnn")
    edges = Preparation((48, 80), 96, flip=True, seed=0)
    whole = edges.batch(task.train_source, Item(task.stream.block(0, 8), batch.pad_to))
    assert sum(len(target["masks"]) for target in whole.targets) > 8 and batch.keys == whole.keys
    for number, target in enumerate(batch.targets):
        assert (batch.images[number] == whole.images[number]).all()
        assert all((target[name] == whole.targets[number][name]).all() for name in target)


def test_squares_stretch_images_boxes_and_masks_alike(tmp_path):
    """By hand: an image 40 wide and 30 high becomes one of 60 x 60, and what is found there goes back."""
    source = opened(coco_folder(tmp_path), empty_images=False)
    item = Item(Block(np.zeros(1, np.int64), np.zeros(1, np.int64)), (64, 64))
    batch = Preparation((60,), 0, flip=False, seed=0, square=True).batch(source, item)
    (image,), (target,) = batch.images, batch.targets
    assert image.shape == (3, 60, 60) and target["boxes"].tolist() == [[7.5, 10, 22.5, 30]]
    assert target["masks"].shape == (1, 60, 60) and target["masks"].sum() == 15 * 20
    padding = _Padding().eval()
    padding.expect(batch)
    (found,) = padding.postprocess([{"boxes": target["boxes"]}], [(60, 60)], None)
    assert found["boxes"].tolist() == [[5, 5, 15, 15]]


def test_crowds_are_scored_and_not_trained_on(tmp_path):
    source = opened(coco_folder(tmp_path), empty_images=True, scored=True)
    assert len(source) == 2 and len(opened(tmp_path, empty_images=False)) == 1
    assert source.class_names == ["car", "dog"] and source.category_id(2) == 18
    dog, empty = source[0], source[1]
    assert dog.labels.tolist() == [2] and dog.boxes.tolist() == [[5, 5, 15, 15]] and dog.masks.sum() == 100
    assert empty.masks.shape == (0, 30, 40) and empty.boxes.shape == (0, 4)
    assert sum(annotation["iscrowd"] for annotation in source.ground_truth()["annotations"]) == 1


def test_boxes_are_cut_at_the_edge_of_their_image_and_empty_ones_left_out(tmp_path):
    """By hand, on an image 40 wide and 30 high; ground truth keeps its boxes."""
    boxes = {(-5, -5, 20, 20): [0, 0, 15, 15], (30, 20, 100, 100): [30, 20, 40, 30]}
    boxes |= dict.fromkeys([(40, 0, 5, 5), (-9, 3, 9, 3), (39, 1, 1e-7, 5)])
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"

    def edit(content) -> None:
        first, crowd = content["annotations"]
        content["annotations"] = [
            first | {"id": number, "bbox": box} for number, box in enumerate(boxes, 10)
        ] + [crowd]

    edited(path, edit)
    source = opened(tmp_path, empty_images=True, scored=True)
    sample = source[0]
    assert (
        sample.boxes.tolist() == [box for box in boxes.values() if box]
        and len(sample.labels) == len(sample.masks) == 2
    )
    assert [tuple(each["bbox"]) for each in source.ground_truth()["annotations"]][:-1] == list(boxes)


def test_boxes_that_miss_their_image_and_names_that_come_twice_have_a_note(tmp_path):
    """An image whose only box lies outside it has no object to train on."""
    root = coco_folder(tmp_path / "outside", bbox=[45, 5, 10, 10])
    with pytest.raises(RecipeError, match="no image with an object to train on"):
        opened(root, empty_images=False)
    notes = opened(root, empty_images=True).index.notes
    assert str(notes[0]) == "1 left out of training, boxes without an area on their image: annotation 7"

    root = coco_folder(tmp_path / "corners", bbox=[20, 20, 35, 28])  # right and bottom for width and height

    def edit(content) -> None:
        content["categories"][1]["name"] = "dog"
        content["images"][1]["file_name"] = "1.jpg"

    edited(root / "annotations/instances_train2017.json", edit)
    assert list(map(str, opened(root, empty_images=True).index.notes)) == [
        "1 categories of one name, which stay apart: dog",
        "1 cut at the edge, boxes that reach beyond their image: annotation 7",
        "1 photos under two ids, which both count: 1.jpg",
    ]


def test_photos_that_are_not_there_are_named_before_the_first_step(tmp_path):
    source = opened(coco_folder(tmp_path), empty_images=True)
    (tmp_path / "train2017/2.jpg").unlink()
    with pytest.raises(
        DataError, match=r"instances_train2017\.json: 1 photos are not in .*train2017: 2\.jpg"
    ):
        source.index  # noqa: B018


@pytest.mark.parametrize("size", [(64, 64), (7, 7)])
def test_a_box_that_a_flip_or_a_smaller_size_leaves_nothing_of_goes_with_its_mask(size):
    whole = draw(3, 64)
    thin = np.array([[0, 0, 1e-9, 9], [50, 0, np.nextafter(np.float32(50), 51), 9]], np.float32)
    labels, masks = (
        np.array([9, 9, *whole.labels]),
        np.concatenate([whole.masks[:1], whole.masks[:1], whole.masks]),
    )
    sample = Sample(3, whole.pixels, np.concatenate([thin, whole.boxes]), labels, lambda: masks)
    _, target = instances._input(sample, size, True, True)
    left, top, right, bottom = target["boxes"].unbind(1)
    assert (right > left).all() and (bottom > top).all()
    assert (
        len(target["labels"]) == len(target["masks"]) == len(left)
        and 9 not in target["labels"][-len(whole.labels) :]
    )
    assert len(left) < 2 + len(whole.labels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(category_id=5), "annotation 7: category_id 5"),
        (dict(image_id=9), "annotation 7: image_id 9"),
        (dict(image_id=[1]), r"annotation 7: image_id \[1\] is not a whole number"),
        (dict(bbox=[1, 2]), "annotation 7: bbox"),
        (dict(bbox=[1, 2, float("nan"), 3]), "annotation 7: bbox"),
        (dict(area="100"), "annotation 7: area '100' is not a finite number"),
        (dict(area=float("inf")), "annotation 7: area inf is not a finite number"),
        (dict(area=-5), "annotation 7: area -5 is not a finite number"),
        (dict(area=float("nan")), "annotation 7: area nan"),
        (dict(bbox=[0, 0, True, 4]), "annotation 7: bbox"),
        (dict(bbox=[0, 0, 10**400, 4]), "annotation 7: "),
        (dict(iscrowd=[1]), "annotation 7: iscrowd"),
        (dict(id=True), "annotation True: id True is not a whole number"),
        (dict(id=7.5), "annotation 7.5: id 7.5 is not a whole number"),
        (dict(id=1e300), "id 1e\\+300 is not a whole number"),
        (dict(iscrowd=[]), r"annotation 7: iscrowd \[\] is neither 0 nor 1"),
        (dict(bbox=[1e308, 0, 1e308, 5]), r"annotation 7: bbox \[1e\+308, .* is not \[left, top, width"),
        (dict(id="7"), "annotation 7: id '7' is not a whole number"),
        (dict(iscrowd="no"), "annotation 7: iscrowd 'no' is neither 0 nor 1"),
        (dict(id=[7]), r"annotation \[7\]: id \[7\] is not a whole number"),
        (dict(id=8), "annotation 8: its id is listed twice"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path, changes, said):
    with pytest.raises(DataError, match=said) as error:
        opened(coco_folder(tmp_path, **changes), empty_images=True)
    assert "instances_train2017.json" in str(error.value)


def _square(counts) -> dict:
    return {"counts": counts, "size": [30, 40]}


BROKEN_OUTLINES = {
    "one point": [[1, 2]],
    "two points": [[1, 2, 3, 4]],
    "odd": [[1, 2, 3, 4, 5, 6, 7]],
    "text": [["a"] * 6],
    "a number": 3,
    "NaN": [[1, 1, 5, 1, float("nan"), 5]],
    "infinite": [[1, 1, 5, 1, float("inf"), 5]],
    "far away": [[1, 1, 5, 1, 1e9, 5]],
    "huge": [[1, 1, 5, 1, 10**400, 5]],
    "a broken second polygon": [[1, 1, 5, 1, 5, 5], [1, 1, 5, 1, float("nan"), 5]],
    "no size": {"counts": "x!"},
    "another size": {"counts": [0, 1200], "size": [40, 30]},
    "no counts": {"size": [30, 40]},
    "too short": _square([0, 10]),
    "too long": _square([0, 1201]),
    "far too long": _square([0, 1200, 10**12]),
    "negative": _square([0, -5, 1205]),
    "floats": _square([0.0, 1200.0]),
    "truths": _square([True, 1199]),
    "compressed, empty": _square(""),
    "compressed, unlike": _square("~~~~"),
    "compressed, another alphabet": _square("\u00e9\u20ac"),
    "compressed, too short": _square("0:"),
    "compressed, ends inside": _square("0P"),
    "compressed, large": _square("o" * 12 + "0"),
    "compressed, larger": _square("o" * 40 + "0"),
    "compressed, nested": _square({"a": 1}),
}


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("kind", BROKEN_OUTLINES)
def test_a_broken_outline_is_named_before_the_first_step_wherever_it_stands(tmp_path, kind, place):
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"

    def edit(content) -> None:
        first, crowd = content["annotations"]
        content["annotations"] = [first | {"id": 20}, first, crowd]
        content["annotations"][place].update(segmentation=BROKEN_OUTLINES[kind], id=99)

    edited(path, edit)
    for options in (dict(empty_images=True), dict(empty_images=True, scored=True)):
        with pytest.raises(
            DataError, match=r"instances_train2017.json: annotation 99: its segmentation cannot be read: \w"
        ):
            opened(tmp_path, **options)


def test_polygons_of_two_points_among_others_are_left_out_and_counted(tmp_path):
    """pycocotools would take a first one, and all that follow it, for boxes; detectron2 leaves them out."""
    whole = [5, 5, 15, 5, 15, 15, 5, 15]
    for number, outline in enumerate(([[1, 1, 30, 20], whole], [whole, [1, 1, 30, 20]], [whole, [], whole])):
        source = opened(
            coco_folder(tmp_path / str(number), segmentation=outline),
            empty_images=True,
            scored=True,
        )
        assert source[0].masks.sum() == 100 and source[0].masks[0, 5:15, 5:15].all()
        assert str(source.index.notes[0]).startswith("1 with polygons of fewer than three points")


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0])
)
def test_masks_are_pycocotools(height, width, seed, share):
    mask = np.asfortranarray(np.random.default_rng(seed).random((height, width)) < share, dtype=np.uint8)
    compressed = rle.encode(mask)
    counts, flat = [], mask.ravel(order="F")
    value = 0
    for pixel in flat:
        if pixel != value or not counts:
            counts += [0] * (1 + (not counts and pixel == 1))
            value = pixel
        counts[-1] += 1
    for outline in (compressed, compressed | {"counts": compressed["counts"].decode()},
                    {"size": [height, width], "counts": counts}):  # fmt: skip
        check_outline(outline, height, width)
        assert (mask_of(outline, height, width) == mask).all()


@given(st.lists(st.lists(st.floats(-20, 60), min_size=6, max_size=16).map(lambda xs: xs[: len(xs) // 2 * 2]),
                min_size=1, max_size=3))  # fmt: skip
def test_masks_of_polygons_are_pycocotools(polygons):
    check_outline(polygons, 30, 40)
    expected = rle.decode(rle.merge(rle.frPyObjects(polygons, 30, 40)))
    assert (mask_of(polygons, 30, 40) == expected).all()
    assert touches_image(polygons, 30, 40) or not expected.any()
    assert holds_pixel(polygons, 30, 40) == expected.any()


@pytest.mark.parametrize("outline", [
    [[45, 5, 60, 5, 60, 15]], [[-9, 5, 0, 5, 0, 15]], [[5, 30, 9, 30, 9, 40]], [[5, -9, 9, -9, 9, 0]],
    [[5, -9, 9, -9, 9, 0], [41, 1, 42, 1, 42, 2]], {"counts": [1200], "size": [30, 40]},
])  # fmt: skip
def test_an_object_whose_outline_misses_its_image_is_left_out_with_a_note(tmp_path, outline):
    root = coco_folder(tmp_path, segmentation=outline)
    with pytest.raises(RecipeError, match="no image with an object to train on"):
        opened(root, empty_images=False)
    source = opened(root, empty_images=True)
    assert list(map(str, source.index.notes)) == [
        "1 left out of training, outlines without an area on their image: annotation 7"
    ]
    assert source[0].masks.shape == (0, 30, 40) and not len(source[0].labels) and not source.raw(0)[1]


@pytest.mark.parametrize("outline", ["missing", None, []])
def test_boxes_without_outlines_are_for_detectors_of_boxes(tmp_path, outline):
    """As OpenImages and Roboflow write them: the box stands for the outline, is counted, and no Mask R-CNN
    learns from it.
    """
    root = coco_folder(tmp_path, segmentation=outline)
    path = root / "annotations/instances_train2017.json"
    if outline == "missing":
        edited(path, lambda content: content["annotations"][0].pop("segmentation"))
    shutil.copytree(root / "train2017", root / "val2017")
    shutil.copy(path, root / "annotations/instances_val2017.json")
    source = opened(root, empty_images=False, scored=True)
    assert str(source.index.notes[0]) == "1 without a segmentation, whose box stands for it: annotation 7"
    assert source[0].boxes.tolist() == [[5, 5, 15, 15]] and source[0].masks.sum() == 100
    recipe = tiny(data=dict(name="coco", root=str(root), image_size=0))
    with pytest.raises(RecipeError, match=r"2017.json: annotation 7 has no segmentation, .* model.detector="):
        create_task(recipe, torch.device("cpu"))
    boxes = create_task(recipe.vary(model=dict(detector="faster_rcnn")), torch.device("cpu"))
    assert boxes.primary_metric.name == "box_ap"


@pytest.mark.parametrize("outline", [
    [[5, 5, 5.01, 5, 5.01, 5.01]],  # thin
    [[5, 5, 25, 25, 25, 25.01]],  # and slanting
    [[-20, 5, 0.2, 5, 0.2, 25, -20, 25]],  # large, and next to nothing of it on the image
])  # fmt: skip
def test_an_object_without_a_pixel_is_learned_as_a_box_and_not_as_a_mask(tmp_path, outline):
    """One of two objects: the other keeps its mask, box and label."""
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    thin = {"id": 9, "category_id": 3, "segmentation": outline}
    edited(path, lambda content: content["annotations"].insert(0, content["annotations"][0] | thin))
    assert not rle.area(encoded(outline, 30, 40))
    source = opened(tmp_path, empty_images=True)
    masks, boxes = (trained_on(source, masks=masks) for masks in (True, False))
    assert masks["labels"].tolist() == [2] and masks["boxes"].shape == (1, 4) and masks["masks"].sum() == 100
    assert boxes["labels"].tolist() == [1, 2] and boxes["boxes"].shape == (2, 4)
    assert list(map(str, source.index.notes)) == [
        "1 left out where masks are learned, outlines without a pixel: annotation 9"
    ]


@pytest.mark.parametrize("across", [0.8, 1e-3, 1e-9])
def test_a_box_thinner_than_a_pixel_is_trained_on_and_an_empty_one_counted(tmp_path, across):
    """Without an outline, between the centres of pixels; in float32 the last is a line."""
    source = opened(coco_folder(tmp_path, bbox=[5.6, 3, across, 20], segmentation=None), empty_images=True)
    (box,) = trained_on(source, masks=False)["boxes"].tolist() or [None]
    notes = [note.what for note in source.index.notes if "thin" in note.what]
    assert (box is None) == bool(notes) == (across < 1e-6) and (box or [5.6])[0] == pytest.approx(5.6)


def trained_on(source, *, masks: bool):
    preparation = Preparation((30,), 0, flip=False, seed=0, masks=masks)
    return preparation.batch(source, Item(Block.of(np.zeros(1, np.int64)), (32, 64))).targets[0]


def test_files_of_other_tools_are_read(tmp_path):
    """A byte order mark, whole numbers as 40.0, iscrowd and area null."""
    path = coco_folder(tmp_path, iscrowd=None, area=None) / "annotations/instances_train2017.json"
    expected = opened(tmp_path, empty_images=True)[0]

    def edit(content) -> None:
        for image in content["images"]:
            image.update(height=30.0, width=40.0, id=float(image["id"]))
        content["annotations"][0].update(image_id=1.0, category_id=18.0)

    edited(path, edit)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    source = opened(tmp_path, empty_images=True, scored=True)
    assert (source[0].masks == expected.masks).all() and source[0].labels.tolist() == expected.labels.tolist()
    assert source.ground_truth()["annotations"][0]["area"] == 100


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"images":' * 10**5, '{"images": [' + "9" * 5000 + "]}", "\xff"]
)
def test_absurd_json_is_the_files_error(tmp_path, text):
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"instances_train2017.json is not COCO's JSON"):
        opened(tmp_path, empty_images=True)


@pytest.mark.parametrize("name", ["images", "annotations", "bbox"])
def test_a_name_that_comes_twice_in_an_object_is_named(tmp_path, name):
    """Python keeps the last value, and half of the data set would be gone."""
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace(f'"{name}":', f'"{name}": [], "{name}":', 1))
    with pytest.raises(DataError, match=f"not COCO's JSON: one object has '{name}' 2 times"):
        opened(tmp_path, empty_images=True)


def test_nothing_to_train_on_or_to_score_is_said_with_a_remedy(tmp_path):
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    for edit in (
        lambda content: [annotation.update(iscrowd=1) for annotation in content["annotations"]],
        lambda content: content.update(annotations=[]),
    ):
        edited(path, edit)
        with pytest.raises(RecipeError, match=r"no image with an object to .*data\.empty_images=true"):
            opened(tmp_path, empty_images=False)
        assert len(opened(tmp_path, empty_images=True)) == 2
        with pytest.raises(RecipeError, match=r"no object to find .*precision is not defined"):
            opened(tmp_path, empty_images=True, scored=True)
    edited(path, lambda content: content.update(images=[]))
    with pytest.raises(RecipeError, match="no image with an object"):
        opened(tmp_path, empty_images=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_detectron2_turns_them(tmp_path, orientation, kind):
    """By hand: the stored photo is the upright one turned back, and its mask lies on the bright square. (A
    TIFF is turned by Pillow; detectron2 would turn it once more.)
    """
    root = coco_folder(tmp_path)
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[5:15, 5:15] = 255
    back = {6: 8, 8: 6}.get(orientation, orientation)
    exif, turn = Image.Exif(), decode._TURNS.get(back)
    exif[0x112] = orientation
    stored = Image.fromarray(upright) if turn is None else Image.fromarray(upright).transpose(turn)
    stored.save(root / "train2017/1.jpg", kind, quality=95, exif=exif)
    sample = opened(root, empty_images=True)[0]
    assert sample.pixels[sample.masks[0] == 1].min() > 200 and sample.pixels[sample.masks[0] == 0].max() < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 99])
def test_a_header_tells_the_upright_size(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "photo", kind, exif=exif)
    data = (tmp_path / "photo").read_bytes()
    shown = decode.rgb(decode.upright(decode.opened(data))).shape[:2]
    assert decode.upright_size(decode.opened(data)) == shown
    assert shown == ((40, 30) if orientation in (5, 6, 7, 8) else (30, 40))


def test_photos_of_another_size_are_named_before_the_first_step(tmp_path):
    """By hand: both are stated as 30 x 40; the second is turned by its EXIF orientation."""
    root, exif = coco_folder(tmp_path), Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (41, 30)).save(root / "train2017/1.jpg")
    Image.new("RGB", (40, 30)).save(root / "train2017/2.jpg", exif=exif)
    source = opened(root, empty_images=True)
    with pytest.raises(DataError, match=r"2 photos in .* have another size than it states") as error:
        source.index  # noqa: B018
    assert "1.jpg (30 x 41 pixels for 30 x 40)" in str(error.value)
    assert "2.jpg (40 x 30 pixels, turned as its EXIF orientation says, for 30 x 40)" in str(error.value)
    (root / "train2017/2.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"2\.jpg \(cannot identify image file"):
        source.index  # noqa: B018


def test_the_headers_of_photos_are_read_once(tmp_path, monkeypatch):
    """Until the annotations or a photo change; what is too new to be kept is read again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = coco_folder(tmp_path / "data") / "annotations/instances_train2017.json"
    seen = []
    monkeypatch.setattr(coco_photos, "opened", lambda file, most: seen.append(1) or decode.opened(file, most))

    def headers_read(**options) -> int:
        seen.clear()
        options = dict(empty_images=True) | options
        opened(tmp_path / "data", **options).index  # noqa: B018
        return len(seen)

    assert headers_read() == headers_read() == 2
    monkeypatch.setattr(index_cache, "SETTLED_NS", 0)
    assert (headers_read(), headers_read()) == (2, 0)
    Image.new("RGB", (40, 30), "white").save(tmp_path / "data/train2017/2.jpg", quality=20)
    assert (headers_read(), headers_read()) == (2, 0)
    edited(path, lambda content: content.update(info="another file"))
    assert (headers_read(), headers_read()) == (2, 0)
    assert (headers_read(empty_images=False), headers_read()) == (1, 2)
    with pytest.raises(DataError, match=r"2 photos in .* more than data\.max_pixels=1199"):
        headers_read(max_pixels=1199)
    assert (headers_read(max_pixels=1200), headers_read(max_pixels=1200)) == (2, 0)
    Image.new("RGB", (41, 30)).save(tmp_path / "data/train2017/1.jpg")
    for _ in range(2):
        with pytest.raises(DataError, match="1 photos in"):
            headers_read()


def test_a_size_that_is_stated_for_the_stored_photo_is_named_with_the_reason(tmp_path):
    root, exif = coco_folder(tmp_path), Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (40, 30)).save(root / "train2017/1.jpg", exif=exif)
    with pytest.raises(DataError, match=r"has 40 x 30 pixels when turned as its EXIF .* says 30 x 40"):
        opened(root, empty_images=True)[0]


def test_the_index_of_coco_knows_every_record_and_photo(tmp_path):
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    seen = {opened(tmp_path, empty_images=True).index.fingerprint}
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    seen.add(opened(tmp_path, empty_images=True).index.fingerprint)
    assert len(seen) == 1
    edited(path, lambda content: content["annotations"][0].update(bbox=[5, 5, 10, 11]))
    seen.add(opened(tmp_path, empty_images=True).index.fingerprint)
    (tmp_path / "train2017/2.jpg").write_bytes(b"other")
    index = opened(tmp_path, empty_images=False).index
    assert len(seen | {index.fingerprint}) == 3
    assert str(index.notes[0]) == "1 left out, images without objects (crowds aside): 2.jpg"


def edited(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda content: content["images"].append(3), "image 3: is not an object"),
        (
            lambda content: content["images"][1].update(height="30"),
            "image 2: height '30' is not a whole number",
        ),
        (
            lambda content: content["images"][1].update(width=0),
            "image 2: height 30 and width 0 must be",
        ),
        (lambda content: content["images"][1].pop("file_name"), "image 2: no file_name"),
        (
            lambda content: content["images"][1].update(file_name="a\0"),
            r"image 2: file_name 'a\\x00' is not the name",
        ),
        (
            lambda content: content["images"][1].update(file_name="\ud800"),
            "image 2: file_name .* not the name",
        ),
        (lambda content: content["images"][1].update(id=1), "image 1: its id is listed twice"),
        (
            lambda content: content["categories"][0].pop("name"),
            "category 18: no name",
        ),
        (lambda content: content["categories"][0].pop("id"), "category None: id None is not a whole number"),
        (lambda content: content["categories"][0].update(id=3), "category 3: its id is listed twice"),
        (lambda content: content["annotations"].append("x"), "annotation x: is not an object"),
    ],
)
def test_a_broken_record_is_named(tmp_path, edit, said):
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    edited(path, edit)
    with pytest.raises(DataError, match=said):
        opened(tmp_path, empty_images=True)


def _left_out(content) -> None:
    for annotation in content["annotations"]:
        del annotation["iscrowd"], annotation["area"]


def _numbered_from_0(content) -> None:
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number


@pytest.mark.parametrize("edit", [_left_out, _numbered_from_0])
def test_what_files_do_differently_does_not_change_the_score(tmp_path, edit):
    path = shapes_as_coco(tmp_path) / "annotations/instances_val2017.json"
    whole = opened(tmp_path, "validation", empty_images=True, scored=True)
    edited(path, edit)
    other = opened(tmp_path, "validation", empty_images=True, scored=True)
    found = [
        detection
        for sample in map(whole.__getitem__, range(len(whole)))
        for detection in as_detections(
            sample.image_id,
            sample.labels.tolist(),
            torch.from_numpy(sample.boxes) + 1,
            torch.linspace(0.1, 0.9, len(sample.labels)),
            outlines_of({"masks": torch.from_numpy(np.roll(sample.masks, 1, 2))}, sample.masks.shape[1:]),
        )
    ]
    metrics, _ = with_classes(whole.ground_truth(), found)
    assert (
        with_classes(other.ground_truth(), found)[0] == metrics
        and 5 < metrics["mask_ap"] < 95
        and "mask_ap_small" in metrics
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda content: content["categories"].pop(), r": 1 \(disc\) stands in one"),
        (
            lambda content: content["categories"][0].update(name="hoop"),
            r": 4 \(hoop\), 4 \(ring\) stands in one",
        ),
    ],
)
def test_halves_of_other_categories_are_rejected(tmp_path, edit, said):
    """Each file's categories are numbered by themselves, so one that lacks a category shifts all labels
    behind it.
    """
    path = shapes_as_coco(tmp_path) / "annotations/instances_val2017.json"
    config = Recipe().vary(data=dict(name="coco", root=str(tmp_path))).data
    edited(path, lambda content: content["categories"].reverse())
    _opened.cache_clear()
    assert dataset_info(config).num_classes == 4
    edited(path, lambda content: content.update(annotations=_of_category(content, 2)))
    edited(path, edit)
    _opened.cache_clear()
    with pytest.raises(RecipeError, match=said) as error:
        dataset_info(config)
    assert "instances_train2017.json and" in str(error.value)


def _of_category(content, number: int) -> list:
    return [annotation for annotation in content["annotations"] if annotation["category_id"] == number]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_ends_a_run_in_one_line(tmp_path, workers):
    """Its exit code is that of an image, and a loader process sends no traceback."""
    for photo in (shapes_as_coco(tmp_path) / "train2017").iterdir():
        photo.write_bytes(b"no picture")
    recipe = tiny(data=dict(name="coco", root=str(tmp_path), workers=workers))
    batches = create_task(recipe, torch.device("cpu")).batches(
        start=0, micro_batch_size=2, rank=0, world_size=1
    )
    with pytest.raises(DataError) as raised:
        next(batches)
    assert raised.value.exit_code == 6
    assert re.fullmatch(
        r".*/train2017/\d+.png: image \d+ cannot be read: cannot identify image file.*", str(raised.value)
    )


def test_a_broken_or_wrong_image_is_named(tmp_path):
    source = opened(coco_folder(tmp_path), empty_images=True)
    (tmp_path / "train2017/1.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train2017/1.jpg: image 1 cannot be read"):
        source[0]
    Image.new("RGB", (41, 30)).save(tmp_path / "train2017/2.jpg")
    with pytest.raises(DataError, match=r"2.jpg: image 2 has 30 x 41 pixels"):
        source[1]


def test_a_file_that_is_not_coco(tmp_path):
    path = coco_folder(tmp_path) / "annotations/instances_train2017.json"
    path.write_text("[1")
    with pytest.raises(DataError, match="is not COCO's JSON"):
        opened(tmp_path, empty_images=True)


def test_a_model_that_finds_nothing_scores_zero():
    """Precision is 0 at every recall; detectron2's COCOEvaluator says nan here."""
    metrics, _ = with_classes(ShapesSource(4, 64, first=1).ground_truth(), [])
    assert metrics["mask_ap"] == metrics["box_ap50"] == 0.0 and set(metrics.values()) == {0.0}


@pytest.mark.parametrize("names", [NAMES, TWELVE_NAMES])
def test_a_model_that_finds_nothing_has_the_numbers_of_one_false_detection(names):
    """By pycocotools: of each size that objects have, and none of the others."""
    truth = ShapesSource(4, 96, first=1).ground_truth()
    outline = rle.encode(np.asfortranarray(np.eye(96, dtype=np.uint8)))
    false = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5, "segmentation": outline}
    assert with_classes(truth, [], names) == with_classes(truth, [false], names)
    kinds = [(kind, name) for kind in ("mask", "box") for name in names if "large" not in name]
    assert with_classes(truth, [], names)[0] == {f"{kind}_{name}": 0.0 for kind, name in kinds}


def test_a_class_without_objects_has_no_precision():
    truth = ShapesSource(4, 64, first=1).ground_truth()
    truth["categories"] = [*truth["categories"], {"id": 99, "name": "unseen"}]
    *seen, unseen = with_classes(truth, [])[1]
    assert unseen == {"class": "unseen", "objects": 0, "mask_ap": None, "box_ap": None}
    assert sum(row["objects"] for row in seen) == len(truth["annotations"])
    assert {row["mask_ap"] for row in seen if row["objects"]} == {0.0}
