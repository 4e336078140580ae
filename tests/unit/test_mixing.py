"""Mixup and CutMix against timm's, and the draws of mixing and multiplicative noise against their
distributions.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup

from lbtrain.data.loss_weights import noisy_weights
from lbtrain.data.mixing import Mixes, draw_mixes, mix
from lbtrain.data.stream import SampleStream, whole_groups

SIZE = (6, 9)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 3, *SIZE, generator=generator), torch.randint(0, 5, (24,), generator=generator)


def replay(monkeypatch, share: float, box: tuple[int, ...]) -> None:
    """Lets timm draw the share and the box that a group of ours has."""
    top, bottom, left, right = (int(side) for side in box)
    monkeypatch.setattr(np.random, "beta", lambda *_: share)
    monkeypatch.setattr(np.random, "rand", lambda *_: 0.0 if bottom > top else 0.999)
    monkeypatch.setattr("timm.data.mixup.rand_bbox", lambda *_, **__: (top, bottom, left, right))


@pytest.mark.parametrize(
    ("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)], ids=["mixup", "cutmix", "both"]
)
def test_each_group_is_mixed_as_timm_mixes_a_batch(batch, monkeypatch, mixup, cutmix):
    mixes = draw_mixes(16, 24, 8, mixup=mixup, cutmix=cutmix, size=SIZE, seed=5)
    images, labels = mix(batch, mixes, group=8, num_classes=5)
    theirs = Mixup(mixup, cutmix, prob=1.0, switch_prob=0.5, num_classes=5, label_smoothing=0.0)
    for first in range(0, 24, 8):
        replay(monkeypatch, float(mixes.shares[first]), mixes.boxes[first])
        expected, targets = theirs(batch[0][first : first + 8].clone(), batch[1][first : first + 8])
        torch.testing.assert_close(images[first : first + 8], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(labels[first : first + 8], targets, rtol=1e-6, atol=1e-6)
    kinds = {bool(top < bottom) for top, bottom in mixes.boxes[::8, :2]}
    assert len(set(mixes.shares.tolist())) == 3 and kinds == {
        "mixup": {False}, "cutmix": {True}, "both": {False, True}
    }["both" if mixup and cutmix else "cutmix" if cutmix else "mixup"]  # fmt: skip


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_the_middle_image_of_an_odd_group_stays_as_it_is(batch, mixup, cutmix):
    mixes = draw_mixes(0, 24, 3, mixup=mixup, cutmix=cutmix, size=SIZE, seed=5)
    images, labels = mix(batch, mixes, group=3, num_classes=5)
    torch.testing.assert_close(images[1::3], batch[0][1::3])
    torch.testing.assert_close(labels[1::3], torch.nn.functional.one_hot(batch[1][1::3], 5).float())
    assert not torch.allclose(images[::3], batch[0][::3])


def test_smoothing_in_the_loss_is_timms_smoothing_of_mixed_labels(batch, monkeypatch):
    mixes = draw_mixes(0, 24, 24, mixup=1.0, seed=0)
    replay(monkeypatch, mixes.shares[0], mixes.boxes[0])
    _, theirs = Mixup(mixup_alpha=1.0, num_classes=5, label_smoothing=0.1)(batch[0].clone(), batch[1])
    _, ours = mix(batch, mixes, group=24, num_classes=5)
    scores = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
    smoothed = torch.nn.functional.cross_entropy(scores, ours, label_smoothing=0.1)
    torch.testing.assert_close(
        smoothed, torch.nn.functional.cross_entropy(scores, theirs), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("start", "length", "group"), [(0, 8, 8), (8, 16, 8), (4, 4, 8), (5, 7, 4), (3, 1, 1)]
)
def test_whole_groups_cover_the_positions_and_no_more(start, length, group):
    first, whole = whole_groups(start, length, group)
    assert first <= start and start + length <= first + whole
    assert first % group == whole % group == 0
    assert start - first < group and first + whole - start - length < group


def drawn(start: int, length: int, seed: int) -> Mixes:
    return draw_mixes(start, length, 8, mixup=0.2, cutmix=1.0, size=SIZE, seed=seed)


def test_a_mix_does_not_depend_on_where_one_looks_from():
    everything, part = drawn(0, 96, 1), drawn(40, 24, 1)
    assert everything.shares[40:64].tolist() == part.shares.tolist()
    assert everything.boxes[40:64].tolist() == part.boxes.tolist()
    assert everything.shares.tolist() != drawn(0, 96, 2).shares.tolist()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = draw_mixes(0, 4000, 1, mixup=alpha, seed=0).shares
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_boxes_are_drawn_as_timm_draws_them():
    """Their sides, where they lie, and the share that a cut off box leaves, over many draws of timm's own."""
    from timm.data.mixup import cutmix_bbox_and_lam

    np.random.seed(0)
    theirs = [cutmix_bbox_and_lam((3, 32, 48), np.random.beta(1, 1)) for _ in range(4000)]
    mixes = draw_mixes(0, 4000, 1, mixup=0.0, cutmix=1.0, size=(32, 48), seed=0)
    for side in range(4):
        assert stats.ks_2samp([box[side] for box, _ in theirs], mixes.boxes[:, side]).pvalue > 0.01
    assert stats.ks_2samp([share for _, share in theirs], mixes.shares).pvalue > 0.01


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_groups_switch_to_cutmix_as_often_as_asked(share):
    boxes = draw_mixes(0, 4000, 1, mixup=0.2, cutmix=1.0, cutmix_share=share, size=(64, 64), seed=0).boxes
    assert (boxes[:, 1] > boxes[:, 0]).mean() == pytest.approx(share, abs=0.02)


def test_weights_are_normal_around_one_and_differ_from_epoch_to_epoch():
    stream = SampleStream(2000, 0)
    first, second = (
        noisy_weights(stream.block(start, 2000), sigma=0.5, seed=0).numpy() for start in (0, 2000)
    )
    assert stats.kstest(np.concatenate([first, second]), stats.norm(1, 0.5).cdf).pvalue > 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    part = noisy_weights(stream.block(500, 40), sigma=0.5, seed=0).numpy()
    assert part.tolist() == first[500:540].tolist()
