"""Every value of every graded recipe is in the table of published settings, and no change of one passes
unnoticed.
"""

from collections import Counter

import pytest

from tests.recipes.mutants import graded, score
from tests.recipes.settings import deviations, settings
from tests.recipes.tables import rows

GRADED = graded()


def test_the_table_has_every_graded_recipe():
    assert set(settings()) - {"*"} == set(GRADED) and len(GRADED) == 47


@pytest.mark.parametrize("name", GRADED)
def test_a_recipe_is_what_was_published(name):
    assert list(deviations(name, GRADED[name])) == []


def test_every_row_names_its_source_once():
    found = rows("settings")
    assert all(bool(row["source"]) == (row["key"] != "like") for row in found)
    twice = [key for key, count in Counter((row["recipe"], row["key"]) for row in found).items() if count > 1]
    assert twice == []
    assert sum(row["source"].startswith("ours") for row in found) < len(found) / 4, "a table of our choices"


def test_every_row_says_something():
    """No row repeats what its recipe has from the one that it is like."""
    likes = {row["recipe"]: row["value"] for row in rows("settings") if row["key"] == "like"}
    for row in rows("settings"):
        if row["key"] != "like" and row["recipe"] in likes:
            assert settings()[likes[row["recipe"]]].get(row["key"]) != row["value"], row


def test_no_change_of_ten_percent_passes_unnoticed():
    results = score()
    assert {name: survived for name, (_, survived) in results.items() if survived} == {}
    assert min(made for made, _ in results.values()) >= 60
    assert sum(made for made, _ in results.values()) >= 2500
