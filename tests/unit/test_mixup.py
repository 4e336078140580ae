"""Mixup against timm's, and the draws of mixup and multiplicative noise against their distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup

from lbtrain.data.loss_weights import noisy_weights
from lbtrain.data.mixup import mixup, mixup_shares
from lbtrain.data.stream import SampleStream, whole_groups


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 3, 4, 4, generator=generator), torch.randint(0, 5, (24,), generator=generator)


def test_each_group_is_mixed_as_timm_mixes_a_batch(batch, monkeypatch):
    shares = mixup_shares(16, 24, 8, alpha=0.4, seed=3)
    images, labels = mixup(batch, shares, group=8, num_classes=5)
    theirs = Mixup(mixup_alpha=0.4, num_classes=5, label_smoothing=0.0)
    for first in range(0, 24, 8):
        monkeypatch.setattr(np.random, "beta", lambda *_, share=shares[first]: share)
        expected, targets = theirs(batch[0][first : first + 8].clone(), batch[1][first : first + 8])
        torch.testing.assert_close(images[first : first + 8], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(labels[first : first + 8], targets, rtol=1e-6, atol=1e-6)
    assert len(set(shares.tolist())) == 3


def test_smoothing_in_the_loss_is_timms_smoothing_of_mixed_labels(batch, monkeypatch):
    shares = mixup_shares(0, 24, 24, alpha=1.0, seed=0)
    monkeypatch.setattr(np.random, "beta", lambda *_: shares[0])
    _, theirs = Mixup(mixup_alpha=1.0, num_classes=5, label_smoothing=0.1)(batch[0].clone(), batch[1])
    _, ours = mixup(batch, shares, group=24, num_classes=5)
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


def test_a_share_does_not_depend_on_where_one_looks_from():
    everything = mixup_shares(0, 96, 8, alpha=0.2, seed=1)
    assert everything[40:64].tolist() == mixup_shares(40, 24, 8, alpha=0.2, seed=1).tolist()
    assert everything.tolist() != mixup_shares(0, 96, 8, alpha=0.2, seed=2).tolist()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = mixup_shares(0, 4000, 1, alpha=alpha, seed=0)
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_weights_are_normal_around_one_and_differ_from_epoch_to_epoch():
    stream = SampleStream(2000, 0)
    first, second = (
        noisy_weights(stream.block(start, 2000), sigma=0.5, seed=0).numpy() for start in (0, 2000)
    )
    assert stats.kstest(np.concatenate([first, second]), stats.norm(1, 0.5).cdf).pvalue > 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    part = noisy_weights(stream.block(500, 40), sigma=0.5, seed=0).numpy()
    assert part.tolist() == first[500:540].tolist()
