"""Measure, predict and explain how training scales over GPUs.

  measure   launch every point of a scaling study and keep each step's time of each rank
  predict   efficiency at sizes that were not measured, from flags alone or from a measured run
  fit       latency, bandwidth and jitter from measured points
  advise    minutes, GPU-hours, money and energy to the target, and where doubling stops paying
  compare   two reports side by side; exit 1 on a slow-down beyond the noise
  ingest    a report from logs, nccl-tests tables and profiler traces that exist already
  render    scaling.csv, .json, .md, .png and one self-contained scaling.html

`COMMAND --help` shows flags and examples. Exit codes: 0 done, 1 compare found a slow-down, 2 invalid
arguments or files.
"""

import argparse
import importlib
import sys

from lbtrain.errors import UserError

COMMANDS = ("measure", "predict", "fit", "advise", "compare", "ingest", "render")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        "scaling_report",
        usage="%(prog)s COMMAND [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    # Only the command's own module is imported: `compare` needs no torch.
    command = parser.parse_args(words[:1]).command
    module = importlib.import_module(f".{command}", __package__)
    inner = argparse.ArgumentParser(
        f"scaling_report {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(inner)
    try:
        return int(module.run(inner.parse_args(words[1:])))
    except UserError as error:
        print(f"scaling_report {command}: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
