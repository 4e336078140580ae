"""Every variable that ColossalAI reads is in the table of lbtrain.launch.environment."""

import importlib.util
from pathlib import Path

from lbtrain.launch.environment import VARIABLES, setting_of
from tests.variables import variables_read_in


def test_every_variable_that_colossalai_reads_is_in_the_table():
    spec = importlib.util.find_spec("colossalai")
    assert spec and spec.origin
    read = variables_read_in(Path(spec.origin).parent)
    assert len(read) > 10
    assert {name: file for name, file in read.items() if setting_of(name, VARIABLES) is None} == {}
