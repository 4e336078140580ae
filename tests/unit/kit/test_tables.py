"""A table is the same on a page, in Markdown and on a terminal."""

from tools.kit.tables import Table

TABLE = Table(
    ["recipe", "rate | batch", "n"],
    [["a <b>\nits title", "0.1", "5"], ["longer", None, "12"]],
    title="A & B",
    kinds=["", "failed"],
    colours=["#0072B2", "#D55E00"],
)


def test_markdown_keeps_its_columns_and_escapes_bars():
    assert TABLE.markdown().splitlines() == [
        "| recipe | rate \\| batch |  n |",
        "|--------|--------------:|---:|",
        "| a <b>  |           0.1 |  5 |",
        "| longer |  not measured | 12 |",
    ]


def test_text_is_for_a_terminal():
    assert TABLE.text().splitlines()[1:] == [
        "a <b>            0.1   5",
        "longer  not measured  12",
    ]


def test_a_page_gets_escaped_text_small_print_and_the_colours_of_the_curves():
    page = TABLE.html()
    assert "<h2>A &amp; B</h2>" in page and 'aria-label="A &amp; B"' in page
    assert '<i style="background:#0072B2"></i> a &lt;b&gt;<br><small>its title</small></td>' in page
    assert '<tr class="failed">' in page and '<td class="none">not measured</td>' in page


def test_columns_may_be_aligned_one_by_one():
    assert Table(["a", "b"], [["1", "x"]], align="rl").markdown().splitlines()[1] == "|--:|---|"
