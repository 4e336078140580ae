"""Check what lbtrain guarantees on your own model and optimizer.

lbtrain verify optim        is an optimizer right when it is sharded?
lbtrain verify optimizers   which optimizers are right under which sharding?
lbtrain verify model        does a training run of a model depend on the batch split?
lbtrain verify sweep        the same for a small model of every family of timm
lbtrain verify runs         did finished runs of one recipe compute the same?
"""

import argparse
import sys
from collections.abc import Sequence

from torch.multiprocessing.spawn import ProcessException

from lbtrain.errors import RecipeError, UserError

from ..kit import command
from . import model, optim, optim_table, runs, sweep


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 all agree, 1 a layer or a run is off, 2 the comparison is not possible, else
    that of the error (lbtrain.errors).
    """
    parser = command.parser("verify", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    optim.add_arguments(commands)
    optim_table.add_arguments(commands)
    model.add_arguments(commands)
    sweep.add_arguments(commands)
    runs.add_arguments(commands)
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    return command.exit_code(lambda: _compare(options, words))


def _compare(options: argparse.Namespace, words: Sequence[str]) -> int:
    try:
        if options.command == "sweep":
            return sweep.sweep(options)
        if options.command == "runs":
            return runs.verify(options, words)
        if options.command == "optimizers":
            return optim_table.tabulate(options)
        if options.command == "model":
            return model.verify(model.Question.of(options))
        return optim.verify(optim.Question.of(options))
    except UserError:
        raise
    except ValueError as error:  # of options that do not fit, or from timm
        raise RecipeError(str(error)) from error
    except ProcessException as error:  # of a rank: it raised, or was killed, as for its memory
        print(error, file=sys.stderr)
        return RecipeError.exit_code


if __name__ == "__main__":
    sys.exit(main())
