"""The runs of a study before they are launched."""

from pathlib import Path

from lbtrain.plan.plan import Plan, make_plan
from tools.study import jobs
from tools.study.jobs import Job, Launch

RECIPE = Path(__file__).parents[3] / "recipes/digits/digits.py"


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
