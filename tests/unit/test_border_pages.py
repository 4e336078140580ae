"""The tables and sentences of the documentation that measurements of the borders have made."""

from bench import rows
from tests.distributed import fingerprint_cost, rounding
from tools.kit.publish import with_block
from tools.verify.models_page import page_of
from tools.verify.rows import read_rows
from tools.verify.sweep import Row


def test_where_losses_agree_to_1e_5_is_what_was_measured():
    page, lines = rounding.PAGE.read_text(), rows.read("rounding")
    assert with_block(page, "rounding", rounding.table(lines)) == page
    assert [line["recipe"] for line in lines] == list(rounding.CASES)


def test_the_cost_of_a_fingerprint_is_what_was_measured():
    page, lines = fingerprint_cost.PAGE.read_text(), rows.read("fingerprint")
    assert with_block(page, "fingerprint", fingerprint_cost.sentence(lines)) == page
    assert [int(line["ranks"]) for line in lines] == list(fingerprint_cost.WORLDS)


def test_the_page_of_models_has_every_family_of_timm():
    import timm

    found = read_rows(rows.RESULTS / "models.csv", Row)
    assert (rounding.PAGE.parent / "models.md").read_text() == page_of(found)
    families = {family for family in timm.list_modules() if hasattr(timm.models, family)}
    assert {row.family for row in found} >= families and len(families) > 90
