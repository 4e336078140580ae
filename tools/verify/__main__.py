"""Check what lbtrain guarantees on your own model and optimizer.

lbtrain verify optim        is an optimizer right when it is sharded?
lbtrain verify optimizers   which optimizers are right under which sharding?
lbtrain verify model        does a training run of a model depend on the batch split?
lbtrain verify sweep        the same for a small model of every family of timm
lbtrain verify runs         did finished runs of one recipe compute the same?
"""

import argparse
import sys

from torch.multiprocessing.spawn import ProcessException

from lbtrain.errors import RecipeError, UserError

from ..kit import command
from . import model, optim, optim_table, runs, sweep


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 all agree, 1 a layer or a run is off, 2 the comparison is not possible, else
    that of the error (lbtrain.errors, command.FAULT).
    """
    words = sys.argv[1:] if arguments is None else arguments
    parser = command.parser("verify", __doc__)
    parser.set_defaults(typed=command.typed("verify", words))
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (optim, optim_table, model, sweep, runs):
        module.add_arguments(commands)
    options = parser.parse_args(words)
    return command.exit_code(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except UserError:
        raise
    except ValueError as error:  # of options that do not fit, or from timm
        raise RecipeError(str(error)) from error
    except ProcessException as error:  # of a rank: it raised, or was killed, as for its memory
        print(error, file=sys.stderr)
        return RecipeError.exit_code


if __name__ == "__main__":
    sys.exit(main())
