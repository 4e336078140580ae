"""Ours takes the steps that the authors' code took, from the same weights on the same images."""

import pytest

from tests.twins.cases import STEPS, TWINS, read, theirs
from tests.twins.record import RECORDED, rows


@pytest.mark.parametrize("name", TWINS)
def test_ours_takes_the_steps_of_the_authors_code(name):
    arrays = read(name)
    tolerance = RECORDED[name][2]
    losses, weights = TWINS[name](arrays).difference(theirs(arrays))
    assert losses < tolerance
    assert weights < max(1e-6, 10 * tolerance)  # final weights are kept in float32


@pytest.mark.parametrize("name", TWINS)
def test_the_steps_changed_something(name):
    arrays = read(name)
    assert len(arrays["loss"]) >= STEPS and arrays["loss"][-5:].mean() < 0.8 * arrays["loss"][:5].mean()
    names = [key.removeprefix("weights/") for key in arrays if key.startswith("weights/")]
    moved = [abs(arrays[f"final/{key}"] - arrays[f"weights/{key}"]).max() for key in names]
    assert max(moved) > 0.01


def test_every_twin_has_its_row():
    found = {row["twin"]: row for row in rows()}
    assert set(found) == set(TWINS) == set(RECORDED)
    for name, row in found.items():
        assert int(row["steps"]) == len(read(name)["loss"])
        assert row["commit"] and row["repository"] == RECORDED[name][0]
        assert float(row["loss_difference"]) < float(row["tolerance"]) == RECORDED[name][2]
        assert row["switched_off"] == RECORDED[name][3]
