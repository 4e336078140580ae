"""The loss landscape of runs: how large a batch pays, how sharp the minimum is, and why two runs differ.

    lbtrain landscape batch RUN_DIR                  critical batch, steps and examples at each batch
    lbtrain landscape layers RUN_DIR                 layer-wise ratios over the run, as heat maps
    lbtrain landscape sharpness RUN_DIR...           Keskar's metric and SAM's; mean and deviation of seeds
    lbtrain landscape hessian RUN_DIR                top eigenvalues, trace, spectral density
    lbtrain landscape training RUN_DIR               top eigenvalues and trace at every checkpoint
    lbtrain landscape compare SMALL_RUN LARGE_RUN    sharpness and Hessian of both, and the line between them
    lbtrain landscape warm-start RUN_DIR RECIPE      the large batch RECIPE from every checkpoint of a run
    lbtrain landscape sweep RECIPE --loss 0.1        steps to a loss or an error at many batch sizes, measured

`batch` needs a run with measure.noise_scale=20it, for example; `layers` one with measure.layers=true too, or
with LARS or LAMB; compare's distances one with measure.distance=true. Measurements are cached as they finish,
in RUN_DIR/landscape: a command that was stopped continues where it was. `torchrun --nproc_per_node N -m
lbtrain landscape ...` shares the examples between N ranks (`sweep` and `warm-start` launch their runs).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..kit import command

if TYPE_CHECKING:
    from .loss import LossOptions
    from .runs import DistContext, Run

SWEEP_OUT = "runs/landscape-sweep/RECIPE"
WARM_START_OUT = "RUN_DIR/landscape/warm-start"
"""The folders of runs by default, with the word in capitals still to be replaced."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("landscape", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, help: str, *arguments: str) -> Callable[..., argparse.Action]:
        own = commands.add_parser(name, help=help, description=help)
        for each in arguments:
            own.add_argument(each.lower(), type=Path, metavar=each, help="The directory of a run.")
        return own.add_argument

    option = add(
        "batch",
        "Find the critical batch size of a run.",
        "RUN_DIR",
    )
    option(
        "--until-loss",
        type=command.positive,
        help="Leave out what was measured after the training loss first was below this value.",
    )
    add("layers", "Draw layer-wise ratios over a run.", "RUN_DIR")
    rises = "Measure how far the loss rises near the minimum, with mean and deviation over seeds."
    sharpness = commands.add_parser("sharpness", help=rises, description=rises)
    sharpness.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="The directories of runs.")
    sharpness.add_argument("--out", type=Path, help="A folder for table, picture and data of several runs.")
    sharpness.add_argument("--title", default="Sharpness", help="The heading of the picture.")
    _add_loss_options(sharpness.add_argument)
    _add_loss_options(add("hessian", "Measure the spectrum of the Hessian.", "RUN_DIR"))
    follow = "Measure the Hessian at every checkpoint of a run (train with checkpoint.keep=1000)."
    _add_loss_options(add("training", follow, "RUN_DIR"))
    option = add(
        "compare",
        "Compare two runs, and draw the line between them.",
        "SMALL_RUN",
        "LARGE_RUN",
    )
    option("--out", type=Path, help="The folder for page and pictures (default LARGE_RUN/landscape/compare).")
    _add_loss_options(option)
    measured = "Train a recipe at many batch sizes and rates, and measure the steps to a loss or an error."
    sweep = commands.add_parser("sweep", help=measured, description=measured)
    _add_sweep_options(sweep)
    late = (
        "Train a recipe from every checkpoint of a run, and measure its error and how sharp its minimum is."
    )
    warm = commands.add_parser("warm-start", help=late, description=late)
    _add_warm_start_options(warm)
    for name, own in (("sweep", sweep), ("warm-start", warm)):
        if argv[:1] == [name]:  # its words may stand behind its options
            return own.parse_intermixed_args(argv[1:], argparse.Namespace(command=name))
    return parser.parse_args(argv)


def _add_loss_options(option: Callable[..., argparse.Action]) -> None:
    option(
        "--examples",
        type=command.count,
        default=512,
        help="How many examples of the run's own training stream are used, the first ones (default 512).",
    )
    option(
        "--micro-batch",
        type=command.count,
        default=0,
        help="Images per forward pass (default 64, or the next whole number of ghost batches).",
    )
    option(
        "--batch-norm",
        choices=("batch", "eval"),
        default="batch",
        help="Whether batch norm uses the statistics of each ghost batch (default) or the running ones.",
    )


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    from ..study.jobs import Launch

    option = parser.add_argument
    option("--batch-sizes", default="16,32,64,128,256,512", help="The batch sizes (default %(default)s).")
    factors = "Factors on the recipe's peak rate, which is scaled by the square root of the batch size"
    rates = command.each_of(command.positive)
    option("--rates", type=rates, default="1,2,4", help=f"{factors} (default %(default)s).")
    goal = parser.add_mutually_exclusive_group(required=True).add_argument
    goal("--loss", type=command.positive, help="The training loss to reach.")
    errors = "The top-1 errors to reach, in percent (35,25): a run ends at the lowest."
    goal("--errors", type=command.each_of(command.positive_or_zero), metavar="E,E,...", help=errors)
    option("--epochs", type=command.positive, default=6, help="The longest run, in epochs (default 6) ...")
    least = "... or in steps, whichever is longer (default 80)."
    option("--least-steps", type=command.count_or_none, default=80, help=least)
    option("--title", default="Steps to a goal over batch sizes", help="The heading of the report.")
    Launch.add_options(parser, launcher="python", ranks=1, seeds=2, out=SWEEP_OUT, scored=False)


def _add_warm_start_options(parser: argparse.ArgumentParser) -> None:
    from ..study.jobs import Launch

    option = parser.add_argument
    option("run_dir", type=Path, metavar="RUN_DIR", help="A run that kept its checkpoints.")
    _add_loss_options(option)
    Launch.add_options(parser, launcher="python", ranks=1, seeds=1, out=WARM_START_OUT, scored=False)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 130 stopped by Ctrl-C, else that of the error
    (lbtrain.errors).
    """
    words = sys.argv[1:] if argv is None else argv
    options = parse(words)
    return command.exit_code(lambda: _run(options, words))


def _run(options: argparse.Namespace, words: Sequence[str]) -> str:
    """Does what the `words` of the command line ask for; returns the text for the terminal of rank 0."""
    from .loss import LossOptions
    from .runs import DistContext, Run

    if options.command in ("batch", "layers"):
        return _read(options)
    if options.command == "sweep":
        return _sweep(options, words)
    if options.command == "warm-start":
        return _warm_start(options)
    context, loss = DistContext.join(), LossOptions.of(options)
    if options.command == "compare":
        from .compare import compare

        out = options.out or options.large_run / "landscape" / "compare"
        return compare(Run(options.small_run), Run(options.large_run), out, context, loss)
    if options.command == "training":
        from .training import training

        return training(Run(options.run_dir), context, loss)
    if options.command == "hessian":
        from .loss import TrainingLoss
        from .measures import Measures

        run = Run(options.run_dir)
        measures = Measures(run, TrainingLoss(run, context, loss))
        return measures.text(measures.spectrum())
    return _sharpness([Run(path) for path in options.runs], context, loss, options, words)


def _read(options: argparse.Namespace) -> str:
    """The commands that read files alone: rank 0 does it for all."""
    from lbtrain.launch.world import detect_world

    from .batch import batch
    from .layers import layers
    from .runs import Run

    if detect_world().rank:
        return ""
    run = Run(options.run_dir)
    return batch(run, options.until_loss) if options.command == "batch" else layers(run)


def _sharpness(
    runs: "Sequence[Run]",
    context: "DistContext",
    loss: "LossOptions",
    options: argparse.Namespace,
    words: Sequence[str],
) -> str:
    from .loss import TrainingLoss, check_measurable
    from .measures import Measures, check_same_function
    from .sharpness import by_recipe, check_finished, report, table_of

    if len(runs) > 1:
        check_measurable(runs, loss, context.world_size)
        check_same_function(runs)
        check_finished(runs)
    found = [Measures(run, TrainingLoss(run, context, loss)).sharpness() for run in runs]
    if context.rank:
        return ""
    if len(found) == 1 and not options.out:
        return Measures(runs[0], TrainingLoss(runs[0], context, loss)).text(found[0])
    groups = by_recipe(runs, found)
    if options.out:
        typed = command.typed("landscape", words)
        return report(groups, options.out, title=options.title, command=typed)
    return table_of(groups).markdown()


def _sweep(options: argparse.Namespace, words: Sequence[str]) -> str:
    from ..study.grid import batch_sizes_of
    from ..study.jobs import Launch, one_recipe
    from .goals import Goal, Target
    from .sweep import sweep

    path, overrides = one_recipe(options.words)
    goals: tuple[Goal, ...]
    if options.errors is None:
        goals = (Goal("loss", options.loss),)
    else:
        goals = tuple(Goal("top1_error", each) for each in options.errors)
    if options.out == Path(SWEEP_OUT):
        options.out = options.out.with_name(path.stem)
    sizes = tuple(batch_sizes_of(options.batch_sizes))
    target = Target(sizes, options.rates, goals, options.epochs, options.least_steps)
    typed = command.typed("landscape", words)
    return sweep(path, overrides, target, Launch.of(options), title=options.title, command=typed)


def _warm_start(options: argparse.Namespace) -> str:
    from ..study.jobs import Launch, one_recipe
    from .loss import LossOptions
    from .runs import Run
    from .warm_start import warm_start

    path, overrides = one_recipe(options.words)
    if options.out == Path(WARM_START_OUT):
        options.out = options.run_dir / "landscape" / "warm-start"
    return warm_start(Run(options.run_dir), path, overrides, Launch.of(options), LossOptions.of(options))


if __name__ == "__main__":
    code = main()
    from lbtrain.launch.world import leave_process_group  # not before the options are read: it imports torch

    leave_process_group()
    sys.exit(code)
