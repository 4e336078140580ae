"""Today's augmentation, losses and drop path: the same run whatever it runs on, and each of them acts."""

import pytest

from tests.distributed.runs import Outcome, check_goes_on_bit_identical, relative_difference, train_on

TINY_VIT = dict(img_size=8, patch_size=4, embed_dim=32, depth=2, num_heads=2)
ALL = dict(
    model=dict(name="vit_tiny_patch16_224", args=TINY_VIT, drop_path=0.3),
    data=dict(
        augmentation="crop_flip",
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.3,
        random_erasing=0.5,
        erasing_mode="pixel",
        repeats=2,
    ),
    loss=dict(form="binary_cross_entropy", label_smoothing=0.1, target_threshold=0.05, mixup=0.4, cutmix=1.0),
)
OFF = {
    "model.drop_path": 0.0,
    "data.auto_augment": "ta_wide",
    "data.color_jitter": 0.0,
    "data.random_erasing": 0.0,
    "data.repeats": 1,
    "loss.form": "cross_entropy",
    "loss.target_threshold": None,
    "loss.mixup": 0.0,
    "loss.cutmix": 0.0,
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp", **ALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "world_size", "micro", "workers"),
    [("ddp", 2, 8, 0), ("deepspeed", 2, 16, 1), ("accelerate", 1, 32, 2), ("ddp", 4, 4, 0)],
)
def test_any_batch_split_and_number_of_workers_gives_the_same_losses(
    oracle, tmp_path, engine, world_size, micro, workers
):
    data = {**ALL["data"], "workers": workers}
    split = dict(engine=engine, micro_batch_size=micro)
    run = train_on(world_size, tmp_path / "run", **{**ALL, **split, "data": data})
    assert len(run.losses) == 20
    assert relative_difference(run.losses, oracle.losses) < 1e-5
    assert [row["top1_error"] for row in run.evaluations] == [row["top1_error"] for row in oracle.evaluations]


def test_partners_and_copies_that_lie_on_another_rank(tmp_path):
    """A group of 64 spans both ranks, half of it on each."""
    alone = train_on(1, tmp_path / "alone", engine="ddp", bn_batch_size=64, **ALL)
    spread = train_on(2, tmp_path / "spread", engine="ddp", bn_batch_size=64, **ALL)
    assert relative_difference(spread.losses, alone.losses) < 1e-5


def test_a_stopped_run_goes_on_bit_identical(oracle, tmp_path):
    check_goes_on_bit_identical(oracle, tmp_path / "run", engine="ddp", **ALL)


@pytest.mark.parametrize("key", OFF)
def test_each_option_acts(oracle, tmp_path, key):
    section, name = key.split(".")
    changes = {**ALL, section: {**ALL[section], name: OFF[key]}}
    if key == "loss.form":
        del changes["loss"]["target_threshold"]
    if key == "data.random_erasing":
        del changes["data"]["erasing_mode"]
    run = train_on(1, tmp_path / "run", engine="ddp", duration="1it", **changes)
    assert abs(run.losses[0] - oracle.losses[0]) > 1e-6 * oracle.losses[0]
