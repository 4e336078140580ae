"""How many epochs, and how many steps, each batch size needs for the same score: sweeps of several durations,
read together.

    lbtrain study sweep RECIPE --batch-sizes 128,1024,4096 duration=8ep --out runs/8ep     # 16ep, 32ep too
    lbtrain study epochs runs/8ep runs/16ep runs/32ep --scores 25,20

A run counts with its last score alone, after its whole schedule: the question is how long a run has to be
planned (`lbtrain landscape sweep` asks for the steps at constant rates). Between two durations the mean
score is taken to lie on a straight line over the logarithm of the epochs; nothing is extrapolated. Scores
change faster at first, so a wide gap between durations gives too many epochs. The interval of 95% reaches to
where the lines through the ends of the means' own intervals (Student's t) cross the score; that of a ratio
combines two of them (Zou & Donner 2008, on logarithms). At each batch size the arm that needs the fewest
epochs is compared with that of the smallest batch. It trains nothing, and writes epochs.md, epochs.json,
epochs.png and epochs.html into --out.
"""

from pathlib import Path

from ..kit import command
from .epochs_report import report


def main(words: list[str]) -> int:
    parser = command.parser("study epochs", __doc__)
    parser.add_argument(
        "sweeps",
        nargs="+",
        type=Path,
        metavar="SWEEP",
        help="Sweeps of different durations: --out folders, sweep.json files, or results/NAME.json.",
    )
    parser.add_argument(
        "--scores",
        required=True,
        type=command.each_of(command.percentage),
        metavar="S,S,...",
        help="Scores to be reached, in percent, such as 25,20.",
    )
    parser.add_argument("--title", default="Epochs to the same score", help="The heading of the report.")
    parser.add_argument("--out", type=Path, default=Path("runs/epochs"), help="(default runs/epochs)")
    options = parser.parse_args(words)
    typed = command.typed("study epochs", words)
    return command.exit_code(
        lambda: report(options.sweeps, options.scores, options.out, title=options.title, command=typed)
    )
