"""The seconds in docs/reliability.md are those of the rows."""

from bench.rows import read
from tests.faults.times import PAGE, table
from tools.kit.publish import with_block


def test_the_page_shows_the_rows():
    assert with_block(PAGE.read_text(), "fault_times", table(read("faults"))) == PAGE.read_text()
