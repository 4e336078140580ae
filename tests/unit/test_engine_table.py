"""docs/engines.md says what every engine supports: each "yes" names a test that is there, everything else
says why not.
"""

import ast
import re
from pathlib import Path

from lbtrain.recipe import keys

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/engines.md").read_text().partition("## What each supports")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|")
]
TESTS = dict(re.findall(r"^(\d+)\. `(\S+::\w+)`$", TEXT, re.MULTILINE))


def test_every_engine_has_its_column():
    (engine,) = [spec for key, spec in keys() if key == "engine"]
    assert {*ROWS[0][1:], "auto"} == set(engine.metadata["choices"])
    assert len(ROWS) > 14 and all(len(row) == 5 for row in ROWS)


def test_every_cell_names_a_test_or_a_reason():
    cells = [cell for row in ROWS[2:] for cell in row[1:]]
    wrong = [cell for cell in cells if not re.match(r"yes \[\d+\]|not here: \w", cell)]
    assert wrong == []
    assert {number for cell in cells for number in re.findall(r"\[(\d+)\]", cell)} == set(TESTS)


def test_every_named_test_is_there():
    for test in TESTS.values():
        path, _, name = test.partition("::")
        functions = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, test
