"""A run that goes on longer or with another batch, and one that starts from another run's checkpoint."""

import json
import shutil

import pytest
import torch

from lbtrain.errors import RecipeError
from lbtrain.plan import precision
from lbtrain.run import run
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.legs import changes_of_leg, record, recorded
from lbtrain.runs.loading import LoadedCheckpoint
from lbtrain.runs.progress import Progress
from tests.short_run import FOUR_STEPS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    run(FOUR_STEPS.vary(run_dir=str(path)), "digits", on_screen=False)
    return path


def losses(path) -> dict[int, float]:
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def weights(path, step: int):
    return torch.load(path / f"checkpoints/step_{step:09}.pt", weights_only=True)["state_dict"]


def test_a_longer_leg_is_the_run_that_was_as_long_from_the_start(finished, tmp_path):
    """Its rate does not depend on the duration, so every bit must agree."""
    run(FOUR_STEPS.vary(run_dir=str(tmp_path / "whole"), duration="8it"), "digits", on_screen=False)
    longer = FOUR_STEPS.vary(run_dir=str(finished), duration="8it")
    with pytest.raises(RecipeError, match=r"duration was 4it, is 8it.*resume=new_leg"):
        run(longer, "digits", on_screen=False)
    summary = run(longer.vary(resume="new_leg"), "digits", on_screen=False)
    assert summary["step"] == 8 and losses(finished) == losses(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "whole", 8).items():
        assert torch.equal(weights(finished, 8)[name], tensor), name
    (leg,) = json.loads((finished / "legs.json").read_text())
    assert (leg["step"], leg["examples"], leg["changed"]) == (4, 128, ["duration was 4it, is 8it"])
    again = run(longer.vary(resume="new_leg"), "digits", on_screen=False)
    assert again["step"] == 8 and len(json.loads((finished / "legs.json").read_text())) == 1


def test_the_time_of_a_run_includes_its_earlier_starts(tmp_path):
    path = tmp_path / "run"
    first = run(FOUR_STEPS.vary(run_dir=str(path)), "digits", on_screen=False)
    checkpoints = Checkpoints(path, keep=2)
    newest = checkpoints.newest()
    assert 0 < newest.seconds < first["seconds"] < 1000
    checkpoints.started -= 1000
    checkpoints.save(newest.state, newest.progress, newest.recipe_yaml, newest.extras)
    checkpoints.wait()
    longer = FOUR_STEPS.vary(run_dir=str(path), duration="6it", resume="new_leg")
    summary = run(longer, "digits", on_screen=False)
    assert 1000 < summary["seconds"] < 2000
    assert Checkpoints(path, keep=2).newest().seconds > 1000


def test_a_finished_run_without_checkpoints_is_not_trained_anew(tmp_path):
    recipe = FOUR_STEPS.vary(run_dir=str(tmp_path))
    run(recipe, "digits", on_screen=False)
    rows = (tmp_path / "metrics.jsonl").read_text()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(RecipeError, match=r"a finished run \(summary.json\) whose checkpoints are gone"):
        run(recipe, "digits", on_screen=False)
    assert (tmp_path / "metrics.jsonl").read_text() == rows


def test_a_run_with_its_best_checkpoint_alone_is_not_trained_anew(tmp_path):
    recipe = FOUR_STEPS.vary(run_dir=str(tmp_path), checkpoint=dict(best="top1_error"))
    run(recipe.vary(duration="2it"), "digits", on_screen=False)
    (tmp_path / "summary.json").unlink()
    for path in (tmp_path / "checkpoints").glob("step_*"):
        path.unlink()
    rows, best = (tmp_path / "metrics.jsonl").read_text(), tmp_path / "checkpoints/best.pt"
    with pytest.raises(RecipeError, match=rf"best\.pt is of a run whose other .* with resume={best}"):
        run(recipe.vary(duration="2it"), "digits", on_screen=False)
    assert (tmp_path / "metrics.jsonl").read_text() == rows
    for _ in range(2):  # as the same command goes on, once the run has checkpoints again
        assert run(recipe.vary(duration="2it", resume=str(best)), "digits", on_screen=False)["step"] == 2
        (tmp_path / "summary.json").unlink()


def test_the_summary_of_an_earlier_leg_is_not_that_of_the_last(tmp_path):
    recipe = FOUR_STEPS.vary(run_dir=str(tmp_path), resume="new_leg")
    run(recipe.vary(duration="2it"), "digits", on_screen=False)
    earlier = (tmp_path / "summary.json").read_bytes()
    last = run(recipe, "digits", on_screen=False)
    (tmp_path / "summary.json").write_bytes(earlier)  # as a crash after the last checkpoint leaves it
    again = run(recipe, "digits", on_screen=False)
    assert (again["step"], again["top1_error"]) == (4, last["top1_error"])
    assert json.loads((tmp_path / "summary.json").read_text())["step"] == 4


def test_a_leg_that_saved_nothing_gives_its_place_to_the_next(tmp_path):
    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    recipe = FOUR_STEPS.vary(run_dir=str(tmp_path), resume="new_leg")
    run(recipe.vary(duration="2it"), "digits", on_screen=False)
    with pytest.raises(Killed):
        run(recipe, "digits", on_screen=False, wrappers=kill)
    other = recipe.vary(duration="3it", schedule=dict(base_lr=0.01))
    with pytest.raises(Killed):
        run(other, "digits", on_screen=False, wrappers=kill)
    run(other, "digits", on_screen=False)
    (leg,) = json.loads((tmp_path / "legs.json").read_text())
    assert leg["changed"] == ["duration was 2it, is 3it", "schedule.base_lr was 0.05, is 0.01"]


def test_a_leg_that_saved_nothing_and_was_taken_back_is_none(tmp_path):
    loaded = LoadedCheckpoint(tmp_path / "step_2.pt", {}, Progress(64, 2), {}, [], "", {}, "")  # type: ignore[arg-type]
    record(tmp_path, loaded, ["duration was 2it, is 3it"])
    assert len(recorded(tmp_path)) == 1
    record(tmp_path, loaded, [])
    assert recorded(tmp_path) == []


def test_a_run_whose_precision_was_chosen_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this CPU", False))
    recipe = FOUR_STEPS.vary(run_dir=str(tmp_path), precision="auto")
    assert run(recipe, "digits", on_screen=False)["step"] == 4
    assert run(recipe, "digits", on_screen=False)["step"] == 4
    longer = recipe.vary(duration="6it", resume="new_leg")
    assert run(longer, "digits", on_screen=False)["step"] == 6
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this CPU", True))
    with pytest.raises(RecipeError, match=r"precision was fp32, is bf16"):
        run(longer, "digits", on_screen=False)


def test_a_run_that_goes_on_knows_the_weights_that_it_started_from(tmp_path):
    weights, key = tmp_path / "start.pt", "content of model.weights"
    for name, seed in (("one", 0), ("two", 1)):
        run(
            FOUR_STEPS.vary(run_dir=str(tmp_path / name), duration="2it", seed=seed),
            "digits",
            on_screen=False,
        )
    shutil.copy(tmp_path / "one/checkpoints/step_000000002.pt", weights)
    path = tmp_path / "run"
    recipe = FOUR_STEPS.vary(
        run_dir=str(path), resume="new_leg", model=dict(weights=str(weights)), measure=dict(distance=True)
    )
    run(recipe.vary(duration="2it"), "digits", on_screen=False)
    started = json.loads((path / "fingerprint.json").read_text())[key]
    run(recipe, "digits", on_screen=False)
    assert json.loads((path / "fingerprint.json").read_text())[key] == started
    assert Checkpoints(path, keep=1).newest().fingerprint[key] == started
    shutil.copy(tmp_path / "two/checkpoints/step_000000002.pt", weights)
    with pytest.raises(RecipeError, match=r"model\.weights=.* holds other weights than those that this run"):
        run(recipe.vary(duration="6it"), "digits", on_screen=False)


def test_another_batch_starts_from_another_run(finished, tmp_path):
    path = tmp_path / "larger"
    recipe = FOUR_STEPS.vary(run_dir=str(path), batch_size=64, duration="8it", resume=str(finished))
    start = json.loads((finished / "summary.json").read_text())["examples"]
    summary = run(recipe, "digits", on_screen=False)
    assert summary["examples"] == 8 * 64 and min(losses(path)) == start // 32 + 1
    (leg,) = json.loads((path / "legs.json").read_text())
    assert leg["checkpoint"].startswith(str(finished)) and leg["examples"] == start
    assert leg["changed"][1:] == ["batch_size was 32, is 64", *leg["changed"][2:]]
    assert run(recipe, "digits", on_screen=False)["step"] == summary["step"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(seed=3), "seed was 0, is 3: a run cannot continue with this change"),
        (dict(optimizer=dict(name="lamb")), "optimizer.name was sgd, is lamb"),
        (dict(bn_batch_size=16), "bn_batch_size was 8, is 16"),
        (dict(data=dict(repeats=2), batch_size=64), "data.repeats was 1, is 2"),
    ],
)
def test_what_cannot_be_continued_is_rejected_with_the_key(changes, said):
    with pytest.raises(RecipeError, match=said):
        changes_of_leg(FOUR_STEPS, FOUR_STEPS.vary(**changes))


def test_a_key_that_did_nothing_may_be_left_out_and_no_other():
    """As a version asks that rejects what an earlier one ignored."""
    ignored = FOUR_STEPS.vary(data=dict(max_size=9), optimizer=dict(beta1=0.8))
    kept = FOUR_STEPS.vary(optimizer=dict(beta1=0.8))
    assert changes_of_leg(ignored, FOUR_STEPS) == changes_of_leg(ignored, kept) == []
    for before, now in ((FOUR_STEPS, kept), (FOUR_STEPS.vary(optimizer=dict(momentum=0.8)), FOUR_STEPS)):
        with pytest.raises(RecipeError, match=r"optimizer\.(beta1|momentum) was"):
            changes_of_leg(before, now)


def test_a_batch_that_chooses_itself_cannot_be_changed():
    adaptive = FOUR_STEPS.vary(absa=dict(max_batch_size=256))
    with pytest.raises(RecipeError, match=r"batch_size=64 cannot change in this run, because absa.max"):
        changes_of_leg(adaptive, adaptive.vary(batch_size=64))


def test_the_batch_may_change_under_repeated_augmentation():
    """Its order depends on the ghost batch alone."""
    repeated = FOUR_STEPS.vary(data=dict(repeats=2))
    assert changes_of_leg(repeated, repeated.vary(batch_size=64)) == ["batch_size was 32, is 64"]


@pytest.fixture(scope="module")
def started_elsewhere(tmp_path_factory):
    """A run of two steps, the run that went on from it, and a third one."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = FOUR_STEPS.vary(run_dir=str(folder / "first"), duration="2it")
    run(recipe, "digits", on_screen=False)
    recipe = FOUR_STEPS.vary(run_dir=str(folder / "second"), resume=str(folder / "first"))
    run(recipe, "digits", on_screen=False)
    shutil.copytree(folder / "first", folder / "third")
    return folder, recipe


@pytest.mark.parametrize(
    "resume", ["auto", "new_leg", "{}/first", "{}/first/checkpoints/step_000000002.pt", "{}/second"]
)
@pytest.mark.parametrize("gone", [False, True])
def test_a_run_goes_on_that_names_its_own_start(started_elsewhere, resume, gone):
    """As the same command does after every preemption, whatever has become of the other run."""
    folder, recipe = started_elsewhere
    moved = (folder / "first").rename(folder / "moved") if gone else None
    assert run(recipe.vary(resume=resume.format(folder)), "digits", on_screen=False)["step"] == 4
    if moved:
        moved.rename(folder / "first")


@pytest.mark.parametrize(
    ("resume", "why"),
    [
        ("nver", "resume=nver is neither auto, never, new_leg, nor a run directory with checkpoints"),
        ("Never", "resume=Never is neither auto"),
        ("/no/such/run", "resume=/no/such/run is neither auto"),
        ("{}/third", "holds a run that did not start from resume=.*choose another run_dir, or leave resume"),
        (
            "{}/second/checkpoints/step_000000004.pt",
            "is of this run itself.*choose another run_dir to go on from this",
        ),
    ],
)
def test_a_run_does_not_go_on_that_names_anything_else(started_elsewhere, resume, why):
    folder, recipe = started_elsewhere
    with pytest.raises(RecipeError, match=why):
        run(recipe.vary(resume=resume.format(folder)), "digits", on_screen=False)


def test_a_path_without_checkpoints_is_rejected(tmp_path):
    with pytest.raises(RecipeError, match="nor a run directory with checkpoints, nor a checkpoint file"):
        run(FOUR_STEPS.vary(run_dir=str(tmp_path / "a"), resume=str(tmp_path)), "digits", on_screen=False)
