"""Batches of a few images (Masters & Luschi 2018): the same run where ranks hold single images, and ghost
batches below the batch.
"""

import pytest

from tests.distributed.runs import relative_difference, train_on

TINY = dict(
    schedule=dict(
        base_lr=2**-9, base_batch_size=1, warmup="5it", warmup_start_lr=None, warmup_start_share=1 / 32
    )
)


@pytest.mark.parametrize(("batch", "ghost", "world_size"), [(2, 2, 2), (8, 2, 2)])
def test_batches_of_a_few_images_over_ranks(tmp_path, batch, ghost, world_size):
    sizes = dict(batch_size=batch, bn_batch_size=ghost, optimizer=dict(momentum=0.0))
    alone = train_on(1, tmp_path / "alone", engine="ddp", **sizes, **TINY)
    spread = train_on(world_size, tmp_path / "spread", engine="deepspeed", **sizes, **TINY)
    assert len(alone.losses) == 20
    assert relative_difference(spread.losses, alone.losses) < 1e-5
