"""docs/from_timm.md and docs/from_detectron2.md answer every flag, with keys that exist."""

import math
import re
from pathlib import Path

import pytest

from lbtrain.plan.plan import make_plan
from lbtrain.plan.statistics import ModelStatistics
from lbtrain.recipe import keys
from lbtrain.recipe.files import load_recipe

ROOT = Path(__file__).parents[2]


def rows_of(page: str) -> list[tuple[list[str], str]]:
    """Every table row as (the names in its first column, its second column)."""
    lines = [line for line in (ROOT / "docs" / page).read_text().splitlines() if line.startswith("| `")]
    columns = [line.split(" | ") for line in lines]
    return [(re.findall(r"`([^`]+)`", names), ours) for names, ours, *_ in columns]


def listed(file: str) -> list[str]:
    """The names in a file of them, which a comment heads with the version they are from."""
    lines = (Path(__file__).parent / file).read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    ("page", "file", "count"),
    [("from_timm.md", "timm_flags.txt", 173), ("from_detectron2.md", "detectron2_keys.txt", 81)],
)
def test_every_flag_has_one_answer(page, file, count):
    answered = [name for names, _ in rows_of(page) for name in names]
    assert len(listed(file)) == count
    assert sorted(answered) == sorted(listed(file))


@pytest.mark.parametrize("page", ["from_timm.md", "from_detectron2.md"])
def test_an_answer_is_a_key_or_says_that_there_is_none(page):
    known = {name for name, _ in keys()}
    known |= {name.rpartition(".")[0] for name in known}
    for names, ours in rows_of(page):
        words = [word.partition("=")[0] for word in re.findall(r"`([^`]+)`", ours)]
        words = ["model.args" if word.startswith("model.args.") else word for word in words]
        words = [word.removesuffix(".KEY") for word in words]
        assert words or re.match("not here|a recipe file", ours), names
        assert set(words) <= known, names


def test_the_example_has_the_rates_of_timms_cosine():
    """timm.scheduler.CosineLRScheduler over 90 epochs, without warmup_prefix: from the start of the run."""
    (command,) = re.findall(r"recipes path (imagenet/resnet50\).*?)```", timm_page(), re.DOTALL)
    recipe = load_recipe("imagenet/resnet50").with_overrides(re.findall(r"[a-z_.]+=\S+", command))
    plan = make_plan(recipe, 8, statistics=ModelStatistics(1000, 0, 0, 1, 100))
    for epoch in (5, 30, 89):
        expected = 0.4 * (1 + math.cos(math.pi * epoch / 90)) / 2
        assert plan.lr(epoch * plan.train_examples) == pytest.approx(expected)


def timm_page() -> str:
    return (ROOT / "docs/from_timm.md").read_text()
