"""Tuning with equal budgets: the same points for everyone, on seeds of its own, and an honest table."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from lbtrain.errors import RecipeError
from lbtrain.tasks import PrimaryMetric
from tests.unit.study.summary import ORIGIN
from tools.study import jobs
from tools.study.__main__ import main
from tools.study.arm import Scored
from tools.study.publish import RECIPES, measured
from tools.study.search import Axis, axes_of, shares, trials_of
from tools.study.tune_report import by_value, order

RECIPE = """
from lbtrain import Recipe
recipe = Recipe().vary(
    batch_size=32, bn_batch_size=8, model=dict(name="cifar_resnet8"), data=dict(name="digits"),
    optimizer=dict(name="{name}"), schedule=dict(base_batch_size=32),
)
"""


@pytest.fixture
def trained(monkeypatch):
    """Recipes that were trained. Their error is the distance of the rate from 0.1 and of the ghost batch from
    8 images, in octaves, and 0.001 with an odd seed; at a rate above 0.8 they diverge.
    """
    recipes = []

    def train(listed, out, *, launcher, ranks):
        for job in listed:
            if job.ended:
                continue
            recipe = job.load()
            recipes.append(recipe)
            rate, folder = recipe.schedule.base_lr, Path(job.run_dir)
            folder.mkdir(parents=True)
            (folder / "recipe.yaml").write_text(recipe.to_yaml())
            (folder / "plan.json").write_text(
                json.dumps({"total_steps": 10, "learning_rate": {"peak": rate}})
            )
            error = 1 + abs(math.log2(rate / 0.1)) + abs(math.log2(recipe.bn_batch_size / 8))
            error += recipe.seed % 2 / 1000
            name, content = "summary.json", {"top1_error": error, **ORIGIN}
            if rate > 0.8:
                name, content = "diverged.json", {}
            (folder / name).write_text(json.dumps(content))

    monkeypatch.setattr(jobs, "run_jobs", train)
    return recipes


@pytest.fixture
def words(tmp_path, monkeypatch):
    for name in ("sgd", "lamb"):
        (tmp_path / f"{name}.py").write_text(RECIPE.format(name=name))
    monkeypatch.chdir(tmp_path)
    over = ["--over", "schedule.base_lr:log:0.01:1", "--over", "lamb/optimizer.weight_decay:linear:0:0.1"]
    return ["tune", "sgd.py", "lamb.py", "--batch-sizes", "32,64", "--trials", "6", *over, "--out", "out"]


def test_every_recipe_and_batch_size_has_as_many_trials_on_seeds_of_tuning(words, trained, capsys):
    assert main(words) == 0
    assert len(trained) == 2 * 2 * 6 and {recipe.seed for recipe in trained} == {1000}
    found = json.loads(Path("out/tune.json").read_text())
    counts = {}
    for row in found["trials"]:
        counts[row["recipe"], row["batch_size"]] = counts.get((row["recipe"], row["batch_size"]), 0) + 1
    assert set(counts.values()) == {6} and len(counts) == 4
    rates = {(recipe.optimizer.name, recipe.batch_size): [] for recipe in trained}
    for recipe in trained:
        rates[recipe.optimizer.name, recipe.batch_size].append(recipe.schedule.base_lr)
    assert rates["sgd", 32] == rates["sgd", 64] and len(set(rates["sgd", 32])) == 6
    assert found["command"].startswith("python -m tools.study tune sgd.py lamb.py")
    for name in ("tune.md", "tune.png", "tune.html"):
        assert Path("out", name).stat().st_size > 300


def test_the_best_is_named_with_its_words(words, trained):
    assert main(words) == 0
    found = json.loads(Path("out/tune.json").read_text())
    own = [row for row in found["trials"] if (row["recipe"], row["batch_size"]) == ("sgd", 32)]
    best = min((row for row in own if row["mean"] is not None), key=lambda row: row["mean"])
    assert found["outcomes"][0].startswith(f"sgd at batch 32: {best['mean']:.2f} with {best['words'][0]}")


def test_more_trials_continue_a_search(words, trained):
    assert main(words) == 0
    more = [word if word != "6" else "9" for word in words]
    assert main(more) == main(more) == 0
    assert len(trained) == 2 * 2 * 9


def test_the_best_is_compared_on_seeds_that_the_tuning_has_not_used(words, trained):
    assert main([*words, "--seeds", "2", "--over", "lamb/schedule.base_lr:log:1:2", "--confirm", "3"]) == 0
    confirmed = [recipe for recipe in trained if recipe.seed >= 1002]
    assert [recipe.seed for recipe in confirmed] == [1002, 1003, 1004] * 2
    found = json.loads(Path("out/tune.json").read_text())
    assert [(row["batch_size"], row["n"]) for row in found["arms"]] == [(32, 3), (64, 3)]
    best = min(row["mean"] for row in found["trials"] if row["recipe"] == "sgd")
    cells = [row.split("|")[8].strip() for row in found["table"].splitlines()[2:]]
    assert cells == [f"{best:.2f} ± 0.00", "-", f"{best:.2f} ± 0.00", "-"]
    assert {row["recipe"] for row in found["arms"]} == {""} and measured(found, "x") == {}


class Confirmed(Scored):
    """A best trial on other seeds; a score of None is a run that diverged."""

    primary_metric = PrimaryMetric("top1_error", "top-1 error", higher_is_better=False)
    evaluations = 1
    lost = 0

    def __init__(self, *scores: float | None):
        self.scores = [score for score in scores if score is not None]
        self.lost = len(scores) - len(self.scores)


class Tried:
    """A search over two keys of four trials, of which the last one diverged."""

    recipe, batch_size, keys = "sgd", 32, ("schedule.base_lr", "optimizer.momentum")
    trials = tuple(SimpleNamespace(values=(rate, 0.5 + rate)) for rate in (0.1, 0.4, 0.2, 0.04))
    points = (Confirmed(3.0), Confirmed(2.0), Confirmed(4.0), Confirmed(None))

    def scores(self):
        return [3.0, 2.0, 4.0, None]

    def best_so_far(self):
        return [3.0, 2.0, 2.0, 2.0]


def test_the_scores_are_drawn_against_every_value_that_was_tried():
    charts = by_value([Tried()])
    assert [chart.title for chart in charts] == ["schedule.base_lr, batch 32", "optimizer.momentum, batch 32"]
    axes = Figure().subplots()
    charts[0].draw(axes)
    scored, lost = axes.get_lines()
    assert scored.get_xydata().tolist() == [[0.1, 3.0], [0.2, 4.0], [0.4, 2.0]] and axes.get_xscale() == "log"
    assert lost.get_xdata().tolist() == [0.04] and lost.get_label() == "sgd, diverged"


def ordered(**confirmed: Confirmed) -> list[str]:
    return order(
        [SimpleNamespace(recipe=name, batch_size=32, confirmed=it) for name, it in confirmed.items()]
    )


def test_a_recipe_of_which_a_run_diverged_leads_no_ranking():
    said = ordered(a=Confirmed(1.0, None, 1.2), b=Confirmed(2.0, 2.1, 2.2), c=Confirmed(None, None))
    assert [line.partition(", ")[2] for line in said] == [
        "a (1 of 3 diverged) is 1.00 ± 0.60 points ahead of b",
        "all runs of c diverged",
    ]


def test_the_intervals_of_a_ranking_hold_together():
    """Student's t with 4 degrees of freedom: 2.776 for 95 % of one comparison, 3.961 for three at once: two
    are said, but which recipe comes first was seen on the same seeds.
    """
    others = {"b": Confirmed(2.0, 3.0, 4.0), "c": Confirmed(4.0, 5.0, 6.0)}
    one, (first, second) = (
        ordered(a=Confirmed(0.0, 1.0, 2.0), b=others["b"]),
        ordered(a=Confirmed(0.0, 1.0, 2.0), **others),
    )
    error = (2 / 3) ** 0.5
    assert f"b is 2.00 ± {2.776 * error:.2f} points behind a" in one[0]
    assert f"b is 2.00 ± {3.961 * error:.2f} points behind a" in first
    assert f"c is 4.00 ± {3.961 * error:.2f} points behind a" in second


def test_a_shipped_recipe_is_measured_where_it_is_the_best_trial_on_other_seeds(tmp_path, trained):
    over = ["--over", "schedule.base_lr:log:0.049999:0.050001", "--confirm", "5"]
    recipe = str(RECIPES / "digits/digits.py")
    assert main(["tune", recipe, "--batch-sizes", "32", "--trials", "1", *over, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "tune.json").read_text())
    line = "top-1 error 2.00 ± 0.00 % (n=5, seeds 1001 to 1005, 1 rank; results/x.json)"
    assert measured(found, "x") == {"digits": line}


def test_the_order_on_other_seeds_is_said_with_what_the_seeds_can_show(words, trained):
    assert main([*words, "--over", "lamb/schedule.base_lr:log:0.01:0.02", "--confirm", "3"]) == 0
    found = json.loads(Path("out/tune.json").read_text())
    sgd, lamb = (row["mean"] for row in found["arms"][:2])
    assert found["outcomes"][4:] == [
        f"on other seeds at batch {size}, lamb is {lamb - sgd:.2f} ± 0.00 points behind sgd"
        for size in (32, 64)
    ]


def test_a_range_that_ends_too_early_is_said(words, trained):
    assert main([*words, "--over", "sgd/schedule.base_lr:log:0.001:0.05"]) == 0
    found = json.loads(Path("out/tune.json").read_text())
    assert found["outcomes"][0].endswith("; no larger schedule.base_lr was tried: widen it")


def test_trials_that_diverge_count_and_have_no_score(words, trained):
    assert main([*words, "--over", "schedule.base_lr:log:1:2"]) == 0
    assert (
        json.loads(Path("out/tune.json").read_text())["outcomes"][0]
        == "sgd at batch 32: every trial diverged"
    )
    table = Path("out/tune.md").read_text().splitlines()[2].replace(" ", "")
    assert table == "|sgd|32|6|1|1|6|-|-|-|"


def test_the_points_of_a_search_do_not_depend_on_their_number():
    assert shares(20, 3)[:5] == shares(5, 3) and len(shares(1, 1)) == 1
    spread = sorted(point[0] for point in shares(16, 2))
    assert all(number / 16 <= share < (number + 1) / 16 for number, share in enumerate(spread))


def test_a_range_for_one_recipe_takes_the_place_of_the_general_one():
    words = ["sgd/a:log:1:10", "a:linear:0:1", "b:linear:-1:1"]
    assert axes_of(words, "sgd") == [Axis("a", "log", 1, 10), Axis("b", "linear", -1, 1)]
    assert axes_of(words, "lamb") == [Axis("a", "linear", 0, 1), Axis("b", "linear", -1, 1)]
    assert Axis("a", "log", 1, 100).at(0.5) == pytest.approx(10) and Axis("a", "linear", 0, 2).at(0.5) == 1
    powers = Axis.parse("a:powers:12:128")
    assert [powers.at(share) for share in (0, 0.24, 0.26, 0.99)] == [16, 16, 32, 128]
    assert Axis.parse("a:powers:16384:32768").word(0) == "a=16384"  # a key of whole numbers takes no exponent


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--over", "schedule.base_lr:0.1:1"], "write KEY:SCALE:LOW:HIGH"),
        (["--over", "schedule.base_lr:log:0:1"], "0 < LOW < HIGH"),
        (["--over", "schedule.base_lr:loglog:1:2"], "the scale loglog is none of log, linear, powers"),
        (["--over", "schedule.base_lr:linear:2:1"], "must have LOW < HIGH"),
        (["--over", "schedule.base_lr:linear:-inf:1"], "must have LOW < HIGH, both finite"),
        (["--over", "schedule.bas_lr:log:0.1:1"], "bas_lr"),
        (["--over", "other/schedule.base_lr:log:0.1:1"], "no recipe of this search has that name"),
        (["--trials", "0"], "--trials 0 must be at least 1"),
        (["--batch-sizes", "1,x"], "write batch sizes such as"),
        (["--over", "bn_batch_size:powers:5:7"], "no power of two lies in this range"),
        (["--launcher", "python", "--ranks", "2"], "--ranks 2 needs a launcher"),
        (
            ["schedule.rule=table", "schedule.table=[32:0.1]", "--batch-sizes", "32,64"],
            "has no learning rate at batch size 64: add one to its schedule.table",
        ),
        (["nowhere.py"], "nowhere.py"),
    ],
)
def test_wrong_words_are_one_message_and_train_nothing(change, message, words, trained, capsys):
    assert main([*words, *change]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and not trained and not Path("out").exists()


def test_a_recipe_without_a_range_is_the_users_error(words):
    with pytest.raises(RecipeError, match="no --over names a key of it"):
        trials_of(Path("sgd.py"), [], ["lamb/schedule.base_lr:log:0.1:1"], 3)


def test_three_batch_sizes_show_the_best_at_each_and_are_graded(words, trained):
    """A single run of each says nothing of the spread."""
    finding = "from lbtrain import BestBatch\nrecipe = recipe.vary(finding=BestBatch(16, 48, 'A paper'))\n"
    with Path("sgd.py").open("a") as file:
        file.write(finding)
    axis = ["--over", "schedule.base_lr:log:0.01:1"]
    assert main(["tune", "sgd.py", "--batch-sizes", "32,64,128", "--trials", "4", *axis, "--out", "out"]) == 0
    data = json.loads(Path("out/tune.json").read_text())
    (row,) = data["findings"]
    assert (row["recipe"], row["batch_size"], row["outcome"]) == ("sgd", 32, "open")
    assert data["outcomes"][-1] == "sgd: best at batch_size 32, open (best at batch_size 16 to 48: A paper)"
    page = Path("out/tune.html").read_text()
    assert "The best at each batch size" in page and "The best schedule.base_lr" in page


@pytest.mark.parametrize(
    ("named", "seeds", "outcome"),
    [
        ("2, 4", 2, "not reproduced"),
        ("8, 16", 2, "reproduced"),
        ("8, 16", 1, "open"),
        ("2, 32", 2, "open"),  # no other size was tried
        ("64, 128", 2, "open"),  # none of these
    ],
)
def test_the_best_ghost_batch_is_graded_at_one_batch_size(words, trained, named, seeds, outcome):
    with Path("sgd.py").open("a") as file:
        file.write("from lbtrain import BestBatch\n")
        file.write(f"recipe = recipe.vary(finding=BestBatch({named}, 'A paper', key='bn_batch_size'))\n")
    axis = ["--over", "bn_batch_size:powers:2:32", "--trials", "8", "--seeds", str(seeds)]
    assert main(["tune", "sgd.py", "--batch-sizes", "32", *axis, "--out", "out"]) == 0
    assert {recipe.bn_batch_size for recipe in trained} == {2, 4, 8, 16, 32}
    (row,) = json.loads(Path("out/tune.json").read_text())["findings"]
    assert (row["bn_batch_size"], row["outcome"]) == (8, outcome)
