"""The tables of published figures are whole, and every figure in them names its source."""

import hashlib

import pytest

from tests.recipes.tables import FIGURES, FOLDER, TABLES, rows, seen


def test_every_table_is_listed():
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_holds_what_was_published(name):
    content = (FOLDER / f"{name}.csv").read_bytes()
    assert (len(rows(name)), hashlib.sha256(content).hexdigest()[:16]) == TABLES[name]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_its_source(name):
    assert len(seen(name)) >= 4
    assert all(row["source"] and row["location"] and row["url"] and row["evidence"] for row in seen(name))
