"""Losses and gradients of a step do not depend on how it is cut, once the unit of a loss is part of the
recipe.
"""

import numpy as np
import pytest
import torch

from lbtrain.data import dataset_info, open_instances
from lbtrain.data.instances import InstanceBatch, Item, Preparation
from lbtrain.data.stream import Block
from lbtrain.nn import GhostStatistics, convert_to_ghost_batch_norm
from lbtrain.tasks import build_model
from lbtrain.tasks.loss_units import SeededSampler
from tests.tiny_detection import KINDS, tiny


def batch_of(*indices: int, epoch: int = 0) -> InstanceBatch:
    """Images of 64 pixels, padded to 96 as if a larger one were in their step."""
    block = Block(np.full(len(indices), epoch), np.array(indices))
    source = open_instances(tiny().data, train=True)
    return Preparation((64,), 0, flip=True, seed=0).batch(source, Item(block, (96, 96)))


def step(changes: dict, *micro_batches: tuple[int, ...]) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Losses and gradients of one step, averaged over its micro-batches."""
    recipe = tiny(**changes)
    model = convert_to_ghost_batch_norm(build_model(recipe, dataset_info(recipe.data)), 1).train()
    GhostStatistics(model)
    sums: dict[str, float] = {}
    for indices in micro_batches:
        losses = model(batch_of(*indices))
        (sum(losses.values()) / len(micro_batches)).backward()
        sums = {name: sums.get(name, 0.0) + float(loss) / len(micro_batches) for name, loss in losses.items()}
    return sums, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    "changes",
    [dict(loss_batch_size=1), dict(loss_batch_size=2), KINDS["faster_rcnn"], KINDS["retinanet"]],
    ids=["1", "2", "faster_rcnn", "retinanet"],
)
def test_accumulation_equals_no_accumulation(changes):
    whole, gradients = step(changes, (0, 1, 2, 3))
    split, cut_gradients = step(changes, (0, 1), (2, 3))
    assert split == pytest.approx(whole, rel=1e-5)
    for ours, theirs in zip(cut_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_part_of_a_batch_is_the_batch_of_its_images():
    part, alone = batch_of(0, 1, 2, 3)[:2], batch_of(0, 1)
    assert (part.keys, part.indices, part.pad_to, part.original_sizes) == (
        alone.keys,
        alone.indices,
        alone.pad_to,
        alone.original_sizes,
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(part.images, alone.images, strict=True))
    for ours, theirs in zip(part.targets, alone.targets, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("boxes", "labels", "masks"))


def test_the_unit_of_a_loss_is_part_of_the_loss():
    """Else `loss_batch_size` would do nothing: torchvision's own normalisation over four images is not that
    over one.
    """
    one, four = (step(dict(loss_batch_size=unit), (0, 1, 2, 3))[0] for unit in (1, 4))
    assert one["loss_mask"] != pytest.approx(four["loss_mask"], rel=1e-4)


def test_a_step_without_an_object_trains():
    source = open_instances(tiny().data, train=True)
    empty = next(index for index in range(100) if not len(source[index].labels))
    losses, gradients = step(dict(loss_batch_size=1), (empty,))
    assert (
        all(np.isfinite(value) for value in losses.values())
        and losses["loss_mask"] == 0
        and losses["loss_objectness"] > 0
    )
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_an_images_proposals_depend_on_its_seed_alone():
    class Like:
        batch_size_per_image, positive_fraction = 8, 0.25

    labels = torch.tensor([1] * 10 + [0] * 30 + [-1] * 5)
    sampler = SeededSampler(Like(), 0)
    sampler.keys = [5, 6]
    first, second = zip(*sampler([labels, labels]), strict=True)
    sampler.keys = [6]
    again = tuple(part[0] for part in sampler([labels]))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, second, strict=True))
    assert not all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    assert (int(first[0].sum()), int(first[1].sum())) == (2, 6)
    assert (labels[first[0].bool()] == 1).all() and (labels[first[1].bool()] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_padded_is_not_seen_by_another_image(kind):
    """The images of a step are padded alike, so the detections of one do not depend on its company."""
    recipe = tiny(**KINDS[kind])
    model = build_model(recipe, dataset_info(recipe.data)).eval()
    with torch.no_grad():
        alone, together = model(batch_of(0))[0], model(batch_of(0, 1, 2))[0]
    torch.testing.assert_close(alone["boxes"], together["boxes"], rtol=1e-4, atol=1e-3)
    assert (
        len(alone["labels"]) and alone["labels"].min() >= 1
    )  # 0 is the background, of which RetinaNet has scores


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_not_rounded_to_the_precision_of_the_forward_pass(kind):
    """bf16 has steps of 8 pixels above 1,024; torchvision's boxes take the type of what the heads predict."""
    recipe = tiny(**KINDS[kind])
    model = convert_to_ghost_batch_norm(build_model(recipe, dataset_info(recipe.data)), 1)
    batch = batch_of(0, 1)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = model.eval()(batch)
        losses = model.train()(batch)
    boxes = torch.cat([each["boxes"] for each in found])
    assert boxes.dtype == torch.float32 and (boxes != boxes.bfloat16().float()).float().mean() > 0.2
    assert all(torch.isfinite(loss) for loss in losses.values())
