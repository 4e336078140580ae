"""`python -I -S lbtrain/faults/guard`, with a `Config` as JSON on standard input, where nobody else can read
it: how lbtrain.faults.watchdog starts a guard.
"""

import importlib
import sys
from pathlib import Path

# The package itself, and not what lies in it; last, so that nothing beside it can stand in front of the
# standard library.
sys.path[:] = [*sys.path[1:], str(Path(__file__).parents[1])]
importlib.import_module("guard.guard").main(sys.stdin.read())
