"""python -m tools.verify optim: is my layer-wise optimizer right when it is sharded?"""

import argparse
import sys

from torch.multiprocessing import ProcessRaisedException

from lbtrain.errors import UserError

from . import optim


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 every layer agrees, 1 some layer is off, 2 the comparison is not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.verify", description="Prove on your own model what lbtrain promises."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    optim.add_arguments(commands)
    options = parser.parse_args(arguments)
    try:
        return optim.verify(optim.Question.of(options))
    except (UserError, ValueError) as error:
        print(f"tools.verify: {error}", file=sys.stderr)
        return 2
    except ProcessRaisedException as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
