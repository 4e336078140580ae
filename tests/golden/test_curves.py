"""Twenty losses of one recipe of each family are what they were when they were committed."""

import pytest

from lbtrain.recipe.files import shipped
from tests.golden.curves import FAMILIES, STEPS, curve, small, stored
from tests.unit.keys.rooms import process_group_of_one

TOLERANCE = 1e-3
"""Relative. On the machine that wrote them they are equal to the last digit; another CPU adds in another
order, and that grows from 1e-7 at the first step.
"""


@pytest.fixture(scope="module", autouse=True)
def alone():
    with process_group_of_one():
        yield


@pytest.mark.parametrize("name", FAMILIES)
def test_the_losses_are_those_that_were_committed(name):
    assert curve(small(name)) == pytest.approx(stored()[name], rel=TOLERANCE)


def test_every_family_has_its_curve():
    curves = stored()
    assert set(curves) == set(FAMILIES) <= set(shipped())
    assert {name.partition("/")[0] for name in FAMILIES} == {name.partition("/")[0] for name in shipped()}
    assert all(len(losses) == STEPS and len(set(losses)) > STEPS // 2 for losses in curves.values())


@pytest.mark.parametrize("word", ["seed=1", "optimizer.momentum=0.81", "schedule.base_lr=0.045"])
def test_a_curve_sees_a_change_of_ten_percent(word):
    changed = curve(small("digits/digits").with_overrides([word]))
    assert changed != pytest.approx(stored()["digits/digits"], rel=TOLERANCE)
