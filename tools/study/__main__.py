"""Compare recipes over several seeds: mean and standard deviation per recipe, curves, a page.

    lbtrain study recipes/digits/digits.py recipes/digits/digits_720_unscaled.py \\
        recipes/digits/digits_720.py --seeds 5 --launcher deepspeed --ranks 2
    lbtrain study sweep --help    the metric against the batch size
    lbtrain study tune --help     the best settings, with equal budgets
    lbtrain study epochs --help   the epochs to the same score against the batch size

The first recipe is the reference that the others are compared with; key=value words override keys of all. All
runs of a study share one launch. A study that was stopped continues where it was: a run in --out that has
finished is not trained again, and is rejected if its recipe has changed since. A run that diverges is
counted, and has no score. --evaluations 5 scores a run as Goyal et al. 2017 do, by the median of its last
five evaluations. A recipe that states a finding of its source (`finding`) is compared with it: reproduced,
not reproduced, or open. The study writes study.md, study.json, study.png and study.html (training loss,
training error by epoch, the metric) into --out. `python -m tools.study.publish` puts them into results/ and
into the recipes.
"""

import sys

from lbtrain.errors import RecipeError
from lbtrain.recipe.files import load_recipe

from ..kit import command
from . import epochs, sweep, tune
from .arm import Arm, score_metric_of
from .jobs import Job, Launch, check_names_differ, split_words
from .report import write_report

_OTHERS = {"sweep": sweep.main, "tune": tune.main, "epochs": epochs.main}


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and (other := _OTHERS.get(words[0])):
        return other(words[1:])
    return command.exit_code(lambda: _study(words))


def _study(words: list[str]) -> str:
    parser = command.parser("study", __doc__)
    parser.add_argument("--title", default="Study", help="The heading of the report.")
    text = "Recipe files, the reference first, and overrides of all of them."
    Launch.add_options(parser, words=text, launcher="deepspeed", ranks=2, seeds=5, out="runs/study")
    options = parser.parse_intermixed_args(words)
    recipes, overrides = split_words(options.words)
    launch = Launch.of(options)
    check_names_differ([(path.stem, path) for path in recipes])
    made = {path: load_recipe(path).with_overrides(overrides) for path in recipes}
    scored = {path: score_metric_of(recipe) for path, recipe in made.items()}
    if len(set(scored.values())) > 1:
        metrics = ", ".join(f"{path}: {each.label}" for path, each in scored.items())
        raise RecipeError(f"scored by {metrics}: study each kind by itself")
    # Seeds outside, arms inside: a study that is stopped early has compared every arm on some of them.
    launch.train(
        [
            Job(str(path), (*overrides, f"seed={seed}"), str(launch.out / path.stem / f"seed{seed}"))
            for seed in launch.seeds
            for path in recipes
        ]
    )
    return write_report(
        [
            Arm.read(
                path, launch.out, list(launch.seeds), scored[path], launch.evaluations, made[path].finding
            )
            for path in recipes
        ],
        launch.out,
        title=options.title,
        command=command.typed("study", words),
        launch=str(launch),
        overrides=overrides,
    )


if __name__ == "__main__":
    sys.exit(main())
