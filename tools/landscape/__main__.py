"""The loss landscape of runs: how large a batch still pays, how sharp the minimum is, and why two runs
differ.

    python -m tools.landscape batch RUN_DIR                    critical batch, steps and examples at each
    batch, a batch schedule
    python -m tools.landscape layers RUN_DIR                   layer-wise ratios over the run, as heat maps
    python -m tools.landscape sharpness RUN_DIR                Keskar's metric and SAM's
    python -m tools.landscape hessian RUN_DIR                  top eigenvalues, trace, spectral density
    python -m tools.landscape compare SMALL_RUN LARGE_RUN      both of these side by side, distance from the
    start, the line between them
    python -m tools.landscape sweep RECIPE                     steps to a loss at many batch sizes, against
    what the noise scale says

`batch` needs a run with measure.noise_scale=20it or so, `layers` one with measure.layers=true too or with
LARS or LAMB, compare's distances one with measure.distance=true. What is measured is kept as it finishes, in
RUN_DIR/landscape: a command that was stopped goes on where it was. `torchrun --nproc_per_node N -m
tools.landscape ...` shares the examples out over N ranks.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lbtrain.errors import UserError


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tools.landscape", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("batch", help="how large a batch pays")
    command.add_argument("run", type=Path, metavar="RUN_DIR")
    command.add_argument(
        "--until-loss", type=float, help="leave out what was measured once the training loss was below this"
    )
    commands.add_parser("layers", help="layer-wise ratios").add_argument("run", type=Path, metavar="RUN_DIR")
    for name, words in (
        ("sharpness", "how far the loss rises nearby"),
        ("hessian", "the spectrum of the Hessian"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("run", type=Path, metavar="RUN_DIR")
        _add_loss_options(command)
    command = commands.add_parser("compare", help="two runs side by side")
    command.add_argument("small", type=Path, metavar="SMALL_RUN", help="the run with the smaller batch")
    command.add_argument("large", type=Path, metavar="LARGE_RUN")
    command.add_argument(
        "--out", type=Path, help="where page and pictures go (default LARGE_RUN/landscape/compare)"
    )
    _add_loss_options(command)
    command = commands.add_parser("sweep", help="steps to a loss over batch sizes, measured")
    command.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe file")
    command.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    command.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1, 2, 4],
        help="factors on the recipe's rate (default 1 2 4)",
    )
    command.add_argument("--loss", type=float, required=True, help="the training loss to reach")
    command.add_argument("--epochs", type=float, default=6, help="the longest run, in epochs (default 6) ...")
    command.add_argument(
        "--least-steps", type=int, default=80, help="... or in steps, whichever is longer (default 80)"
    )
    command.add_argument("--seeds", type=int, default=2)
    command.add_argument(
        "--out", type=Path, help="where runs and report go (default runs/landscape-sweep/NAME-OF-THE-RECIPE)"
    )
    return parser.parse_args(argv)


def _add_loss_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--examples",
        type=int,
        default=512,
        help="the first so many of the run's own training stream (default 512)",
    )
    command.add_argument(
        "--micro-batch",
        type=int,
        default=0,
        help="images a pass (default 64, or the next whole number of ghost batches)",
    )
    command.add_argument(
        "--batch-norm",
        choices=("batch", "eval"),
        default="batch",
        help="statistics of each ghost batch (default), or the running ones",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 130 stopped by Ctrl-C, else that of the error
    (lbtrain.errors).
    """
    words = sys.argv[1:] if argv is None else argv
    options = parse(words)
    try:
        if said := _run(options, words):
            print(said)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was finished is kept: the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace, words: Sequence[str]) -> str:
    """Does what the `words` of the command line ask for; returns the text for the terminal of rank 0."""
    from .runs import Run

    if options.command == "batch":
        from .batch import batch

        return batch(Run(options.run), options.until_loss)
    if options.command == "layers":
        from .layers import layers

        return layers(Run(options.run))
    if options.command == "sweep":
        from lbtrain.recipe.files import load_recipe

        from .sweep import Question, sweep

        asked = (
            tuple(options.batches),
            tuple(options.rates),
            options.seeds,
            options.loss,
            options.epochs,
            options.least_steps,
        )
        out = options.out or Path("runs/landscape-sweep") / options.recipe.stem
        return sweep(
            load_recipe(options.recipe),
            Question(*asked),
            out,
            command=shlex.join(["python", "-m", "tools.landscape", *words]),
        )
    from .runs import DistContext, LossOptions

    context, loss = DistContext.join(), LossOptions(options.examples, options.micro_batch, options.batch_norm)
    if options.command == "compare":
        from .compare import compare

        out = options.out or options.large / "landscape" / "compare"
        return compare(Run(options.small), Run(options.large), out, context, loss)
    from .measures import Measures

    measures = Measures(Run(options.run), context, loss)
    return measures.text(measures.sharpness() if options.command == "sharpness" else measures.spectrum())


if __name__ == "__main__":
    code = main()
    from lbtrain.launch.world import leave_process_group  # not before the options are read: it imports torch

    leave_process_group()
    sys.exit(code)
