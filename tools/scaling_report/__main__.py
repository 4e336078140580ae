"""Measure, predict and explain how training scales over GPUs.

  measure     launch every point of a scaling study and keep each step's time of each rank
  predict     efficiency at sizes that were not measured, from flags alone or from a measured run
  fit         latency, bandwidth and jitter from measured points
  advise      minutes, GPU-hours, money and energy to the target, and where doubling stops paying
  compare     two reports side by side; exit 1 on a slow-down beyond the noise
  ingest      a report from logs, nccl-tests tables and profiler traces that exist already
  stragglers  the slowest rank of runs that exist, and how long the others waited for it
  render      scaling.csv, .json, .md, .png and one self-contained scaling.html

`COMMAND --help` shows flags and examples. Exit codes: 0 done, 1 compare found a slow-down, 2 invalid
arguments or files.
"""

import argparse
import importlib
import sys

from ..kit import command

COMMANDS = ("measure", "predict", "fit", "advise", "compare", "ingest", "stragglers", "render")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = command.parser("scaling_report", __doc__)
    parser.usage = "%(prog)s COMMAND [flags]"
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    # Only the command's own module is imported: `compare` needs no torch.
    name = parser.parse_args(words[:1]).command
    module = importlib.import_module(f".{name}", __package__)
    inner = command.parser(f"scaling_report {name}", module.__doc__)
    module.add_arguments(inner)
    options = inner.parse_args(words[1:])
    return command.exit_code(lambda: int(module.run(options)))


if __name__ == "__main__":
    sys.exit(main())
