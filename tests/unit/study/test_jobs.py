"""The runs of a study before they are launched."""

import itertools
from pathlib import Path

import pytest

from lbtrain.errors import Diverged, Preempted
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.run import run
from lbtrain.runs.directory import RunDirectory
from lbtrain.tasks import Losses
from lbtrain.tasks.classification import Classification
from tests.short_run import FOUR_STEPS
from tools.study import jobs
from tools.study.jobs import Job, Launch

RECIPE = Path(__file__).parents[3] / "recipes/digits/digits.py"


def test_a_run_that_trains_again_has_not_ended_by_what_diverged_before(tmp_path: Path, monkeypatch) -> None:
    """As where its continuation with skip_nonfinite is stopped."""
    job = Job(str(RECIPE), (), str(tmp_path))
    recipe = FOUR_STEPS.vary(run_dir=str(tmp_path), checkpoint=dict(every="1it"), log_every="1it")
    loss, calls = Classification.loss, itertools.count(1)

    def diverging(self, model, batch):
        losses = loss(self, model, batch)
        return Losses({"loss": losses.total * float("nan")}) if next(calls) == 3 else losses

    with monkeypatch.context() as patched, pytest.raises(Diverged):
        patched.setattr(Classification, "loss", diverging)
        run(recipe, "digits", on_screen=False)
    assert job.ended

    def stopped(*_):
        raise Preempted("stopped")

    with pytest.raises(Preempted):
        run(recipe.vary(skip_nonfinite=1), "digits", on_screen=False, wrappers=stopped)
    assert not job.ended and (tmp_path / "diverged_step_3.json").exists()
    run(recipe, "digits", on_screen=False)
    assert job.ended and not (tmp_path / "diverged.json").exists()


def test_a_divergence_without_its_step_is_set_aside_too(tmp_path: Path) -> None:
    (tmp_path / "diverged.json").write_text("{}")
    for _ in range(2):
        RunDirectory(tmp_path).set_aside_divergence()
    assert [path.name for path in tmp_path.iterdir()] == ["diverged_step_unknown.json"]


def test_every_plan_that_is_checked_is_that_of_its_own_recipe(tmp_path: Path, monkeypatch) -> None:
    """With the memory of its own image sizes, beside an arm of the same network and data."""
    plans: list[Plan] = []

    def planned(*arguments, **options) -> Plan:
        plans.append(make_plan(*arguments, **options))
        return plans[-1]

    monkeypatch.setattr(jobs, "make_plan", planned)
    words = ("data.name=synthetic", "data.image_size=32", "model.name=cifar_resnet8")
    sized = (*words, "schedule.image_sizes=0ep:64,5ep:32")
    arms = [Job(str(RECIPE), arm, str(tmp_path / str(len(arm)))) for arm in (words, sized)]
    Launch(range(1), "python", 1, tmp_path).check_plans(arms)
    assert [plan.to_json() for plan in plans] == [make_plan(arm.load(), 1).to_json() for arm in arms]
    first, second = (plan.phases for plan in plans)
    assert len(first) == 1 and [phase.image_size for phase in second] == [64, 32]
