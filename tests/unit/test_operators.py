"""Operators of timm and torchvision, with draws of our own: the same image for an example whatever was loaded
before it, and theirs where the generators stand alike.
"""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision.transforms import ColorJitter, TrivialAugmentWide

from lbtrain import Recipe
from lbtrain.data.operators import Operators, _drawing_from, _policy
from lbtrain.data.stream import Block
from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from tests.photos import natural

EACH = {
    "rand": Operators(policy="rand-m9-mstd0.5-inc1", mean=(124.0, 116.0, 104.0)),
    "auto": Operators(policy="original-mstd0.5"),
    "three": Operators(policy="3a", jitter=0.3),
    "trivial": Operators(policy="ta_wide"),
    "jitter": Operators(jitter=0.4),
    "erasing": Operators(erasing=1.0, erasing_mode="pixel"),
}


@pytest.fixture
def photo() -> torch.Tensor:
    return torch.from_numpy(natural(48, 48, 3)).permute(2, 0, 1)


def shown(operators: Operators, image: torch.Tensor, number: int) -> torch.Tensor:
    varied = operators.vary(image, number).float()
    operators.erase(varied, number)
    return varied


@pytest.mark.parametrize("name", EACH)
def test_what_becomes_of_an_image_is_a_function_of_its_number(photo, name):
    first = [shown(EACH[name], photo, number) for number in range(12)]
    assert all(image.shape == photo.shape for image in first)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 6
    random.random(), np.random.rand(), torch.rand(1)
    again = [shown(EACH[name], photo, number) for number in reversed(range(12))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))


@pytest.mark.parametrize("name", EACH)
def test_the_generators_of_the_process_are_left_alone(photo, name):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    shown(EACH[name], photo, 7)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(
    "words", ["rand-m9-mstd0.5-inc1", "rand-m7-n3", "rand-m12-mmax14-t3a", "original", "v0-mstd0.5", "3a"]
)
def test_a_policy_is_that_of_timms_factory(photo, words):
    mean = (0.485, 0.456, 0.406)
    ours = Operators(policy=words, mean=tuple(255 * value for value in mean), interpolation="bicubic")
    *_, theirs, _ = transforms_imagenet_train(
        48, auto_augment=words, interpolation="bicubic", color_jitter=None, mean=mean, separate=True
    )
    picture = Image.fromarray(photo.permute(1, 2, 0).numpy())
    for number in range(20):
        with _drawing_from(number):
            expected = torch.from_numpy(np.array(theirs(picture))).permute(2, 0, 1)
        assert torch.equal(ours.vary(photo, number), expected)


@pytest.mark.parametrize(
    ("words", "name"), [("rand-m10-n1-p1-inc1", "PosterizeIncreasing"), ("v0", "Posterize")]
)
def test_a_posterised_image_of_0_bits_or_fewer_is_black(photo, words, name):
    """Pillow 13 rejects what timm asks of it."""
    policy = _policy(Operators(policy=words), 48)
    operators = policy.ops if words != "v0" else [each for pair in policy.policy for each in pair]
    picture = Image.fromarray(photo.permute(1, 2, 0).numpy())
    (operator, *_) = [each for each in operators if each.name == name]
    assert not any(np.array(operator.aug_fn(picture, bits)).any() for bits in (0, -4))
    assert np.array(operator.aug_fn(picture, 1)).max() == 128


@pytest.mark.parametrize("kind", ["", "-inc1", "-tweights", "-t3a", "-t3aw"])
@pytest.mark.parametrize("size", ["-m20-mmax30", "-m999999999-mmax999999999", "-m9-mmax40-mstd9", "-mstd999"])
def test_every_operator_takes_every_magnitude(photo, kind, size):
    picture = Image.fromarray(photo.permute(1, 2, 0).numpy())
    for operator in _policy(Operators(policy=f"rand-p1{size}{kind}"), 48).ops:
        for number in range(4):
            with _drawing_from(number):
                assert operator(picture).size == picture.size


def test_the_rest_is_torchvisions_and_timms(photo):
    picture = Image.fromarray(photo.permute(1, 2, 0).numpy())
    both = Operators(policy="ta_wide", jitter=0.4)
    for number in range(20):
        with _drawing_from(number):
            expected = np.array(ColorJitter(0.4, 0.4, 0.4)(TrivialAugmentWide()(picture)))
        assert torch.equal(both.vary(photo, number), torch.from_numpy(expected).permute(2, 0, 1))
        ours, theirs = photo.float(), photo.float()
        Operators(erasing=0.5).erase(ours, number)
        with _drawing_from(number):
            RandomErasing(0.5, device="cpu")(theirs)
        assert torch.equal(ours, theirs)


def test_a_grey_image_stays_grey_and_of_one_channel(photo):
    grey = photo[:1]
    varied = [EACH["rand"].vary(grey, number) for number in range(20)]
    assert all(image.shape == grey.shape for image in varied)
    assert sum(torch.equal(image, grey) for image in varied) < 15


def test_numbers_belong_to_seed_epoch_and_example():
    block = Block(np.array([0, 0, 1]), np.array([4, 5, 4]))
    numbers = Operators().numbers(block, seed=0)
    assert len({number for pair in numbers for number in pair}) == 6
    assert numbers[1:] == Operators().numbers(Block(np.array([0, 1]), np.array([5, 4])), seed=0)
    assert numbers != Operators().numbers(block, seed=1)


@pytest.mark.parametrize(
    "words",
    [
        *("rand-m9-x3", "rand9", "randaug", "original-m3", "v1", "ta", "rand-mstdinf", "augmix-m3"),
        f"rand-m{10**400}",
    ],
)
def test_words_that_timm_would_ignore_are_rejected(words):
    with pytest.raises(RecipeError, match=rf"data.auto_augment={words}: .* takes rand with options"):
        Recipe().vary(data=dict(auto_augment=words))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(data=dict(name="imagenet", augmentation="imagenet_color", color_jitter=0.4)), "whole grey"),
        (dict(data=dict(auto_augment="rand-n16-tweights")), "Use at most -n15"),
        (dict(data=dict(auto_augment="rand-n2-n15-t3aw-tweights")), "14 operations once each. Use"),
        (dict(model=dict(drop_path=0.1, args=dict(drop_path_rate=0.1))), "say the same"),
        (dict(data=dict(erasing_mode="rand")), "Remove it, or set data.random_erasing"),
        (dict(loss=dict(target_threshold=0.2)), "it needs loss.form=binary_cross_entropy"),
        (dict(loss=dict(mixup=0.2, cutmix_share=0.3)), "loss.cutmix"),
        (dict(bn_batch_size=1, loss=dict(mixup=0.2)), "loss.mixup=0.2 .* Use bn_batch_size=32"),
        (dict(bn_batch_size=1, batch_size=3, loss=dict(cutmix=1)), "loss.cutmix=1.0 .* Use a larger bn_bat"),
        (dict(data=dict(min_crop_area=0.05)), "it needs data.augmentation=imagenet or imagenet_color"),
        (dict(model=dict(library="torchvision"), data=dict(name="shapes", repeats=3)), "it needs model"),
    ],
)  # fmt: skip
def test_settings_that_contradict_or_do_nothing_are_rejected(changes, said):
    with pytest.raises(RecipeError, match=said):
        make_plan(Recipe().vary(**changes), 1)
