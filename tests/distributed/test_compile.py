"""compile=true: the same run up to rounding under every engine that takes it, with plain names of weights."""

import pytest

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from lbtrain.plan.report import rows
from lbtrain.plan.validate_engine import check_compiler
from tests.distributed.runs import SMALL, Outcome, check_same_run, train_on

COMPILED = [
    (1, dict(engine="ddp")),
    (2, dict(engine="ddp", micro_batch_size=16)),
    (2, dict(engine="accelerate")),
    (2, dict(engine="deepspeed", deepspeed=dict(zero_stage=1))),
]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return train_on(1, tmp_path_factory.mktemp("oracle") / "run", engine="ddp")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("world_size", "engine"), COMPILED, ids=str)
def test_a_compiled_run_is_the_same_run(oracle, tmp_path, world_size, engine):
    run = train_on(world_size, tmp_path / "run", compile=True, timeout=800, **engine)
    check_same_run(run, oracle)
    assert not any("_orig_mod" in name for name in run.checkpoint()["state_dict"])


REJECTED = [
    (dict(engine="colossalai"), 1, "engine=colossalai. Use engine=ddp"),
    (dict(deepspeed=dict(zero_stage=3), engine="deepspeed"), 2, "deepspeed.zero_stage=3"),
    (dict(absa=dict(max_batch_size=128)), 1, "absa.max_batch_size"),
    (dict(micro_batch_size=4), 2, "a batch-norm batch over 2 ranks"),
]


@pytest.mark.parametrize(("changes", "world_size", "words"), REJECTED)
def test_what_does_not_go_with_it_is_rejected_when_planned(changes, world_size, words):
    recipe = Recipe().vary(**SMALL).vary(compile=True, **changes)
    with pytest.raises(RecipeError, match=f"compile=true does not go with {words}"):
        make_plan(recipe, world_size, engine=recipe.engine_under("ddp"))


def test_the_plan_says_what_it_changes():
    plan = make_plan(Recipe().vary(**SMALL, compile=True), 1)
    assert "batch norm by elementary operations" in rows(plan)["torch.compile"]
    assert rows(make_plan(Recipe().vary(**SMALL), 1))["torch.compile"] == "no"


def test_a_missing_compiler_is_reported_with_what_to_install(monkeypatch):
    check_compiler("cpu")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RecipeError, match="needs a C\\+\\+ compiler: install g\\+\\+"):
        check_compiler("cpu")
