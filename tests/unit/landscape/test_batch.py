"""From noise rows to a critical batch, on rows whose noise scale is known."""

import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from tests.run_rows import write_rows
from tests.tiny_detection import TINY
from tools.landscape import chart
from tools.landscape.__main__ import main
from tools.landscape.noise import Advice, _cut, advise, batch_schedule, windows
from tools.scaling_report.__main__ import main as scaling_report
from tools.scaling_report.report import Report, Row


def rows(noise_scales, *, batch=64, small=16, each=20, spread=0.02, every=10):
    """Rows of a run whose noise scale takes these values one after the other; |g|^2 varies by `spread` of
    itself.
    """
    generator, found = np.random.default_rng(0), []
    for noise in noise_scales:
        for _ in range(each):
            squares = [
                (1 + noise / size) * (1 + spread * generator.standard_normal()) for size in (small, batch)
            ]
            step = (len(found) + 1) * every
            sizes = {
                "small_batch": small,
                "large_batch": batch,
                "small_square": squares[0],
                "large_square": squares[1],
            }
            found.append({"kind": "noise", "step": step, "examples": step * batch, **sizes})
    return found


def test_a_constant_noise_scale_is_the_critical_batch():
    advice = advise(windows(rows([100] * 8)))
    assert advice.critical_batch == pytest.approx(100, rel=0.05)
    low, high = advice.critical_batch_interval
    assert low < 100 < high < 1.3 * low
    assert advice.min_steps == pytest.approx(1600 / (1 + 100 / 64), rel=0.03), (
        "1,600 steps at 64 did this much"
    )
    assert advice.steps(64) == pytest.approx(1600, rel=1e-6) and advice.examples(64) == pytest.approx(
        1600 * 64, rel=1e-6
    )
    for size in (8, 64, 100, 5000):
        assert (advice.steps(size) / advice.min_steps - 1) * (
            advice.examples(size) / advice.min_examples - 1
        ) == pytest.approx(1)
    assert advice.steps(advice.critical_batch) == pytest.approx(2 * advice.min_steps)


def test_a_growing_noise_scale_grows_the_batch_by_powers_of_two_and_never_shrinks_it():
    found = windows(rows([30, 30, 70, 60, 130, 120, 500, 30]))
    assert len(found) == 8
    words = batch_schedule(found, train_examples=12800, whole=8)
    assert words == ["batch_size=32", "schedule.batch_growth=2ep:2,4ep:2,6ep:4"]
    recipe = (
        Recipe()
        .vary(batch_size=64, bn_batch_size=8, duration="90ep", model=dict(name="cifar_resnet8"))
        .with_overrides(words)
    )
    assert [phase.batch_size for phase in make_plan(recipe, 1).phases] == [32, 64, 128, 512]


def gaussian_rows(noise_scales, *, seed, batch=32, small=8, dimensions=200):
    """One row for each of these noise scales, from Gaussian gradients whose mean has a norm of 1."""
    generator, found, pieces = np.random.default_rng(seed), [], batch // small
    for number, noise in enumerate(noise_scales):
        drawn = generator.standard_normal((pieces, dimensions)) * (noise / dimensions / small) ** 0.5
        drawn[:, 0] += 1
        squares = {
            "small_square": float((drawn**2).sum(1).mean()),
            "large_square": float((drawn.mean(0) ** 2).sum()),
        }
        examples = {"examples": (number + 1) * batch, "small_batch": small, "large_batch": batch}
        found.append({"kind": "noise", "step": number + 1, **examples, **squares})
    return found


@pytest.mark.parametrize(("noise", "count"), [(300, 80), (1000, 200)])
def test_much_noise_is_not_taken_for_less(noise, count):
    """Where |G|^2 is lost in the noise of a window, those that show it by luck must not speak for the run."""
    cuts = [windows(gaussian_rows([noise] * count, seed=seed)) for seed in range(24)]
    assert min(map(len, cuts)) < 8, "some do not show it in each eighth of the run"
    assert all(sum(len(window.measured) for window in cut) == count for cut in cuts)
    found = [advise(cut).critical_batch for cut in cuts]
    assert np.median(found) == pytest.approx(noise, rel=0.08)
    assert 0.25 < np.mean(np.array(found) > noise) < 0.75


def test_noise_that_grows_is_followed_where_it_can_be():
    noise = np.geomspace(100, 3000, 160)
    steps = (1 / (1 + noise / 128)).sum()
    expected = (noise / (1 + noise / 128)).sum() / steps
    found = [
        advise(windows(gaussian_rows(noise, seed=seed, batch=128, small=32))).critical_batch
        for seed in range(12)
    ]
    assert np.median(found) == pytest.approx(expected, rel=0.08)


def test_windows_in_which_the_gradient_does_not_show_are_joined():
    assert len(windows(rows([100] * 8))) == 8
    noisy = windows(rows([300] * 8, each=5, spread=0.3))
    assert len(noisy) < 8 and sum(len(window.measured) for window in noisy) == 40
    assert all(window.bounded for window in noisy)
    assert [window.start for window in noisy[1:]] == [window.end for window in noisy[:-1]]
    drowned = rows([100], each=5)
    for number, row in enumerate(drowned):
        for key in ("small_square", "large_square"):
            row[key] += (
                0.2 * (-1) ** number - 1.1
            )  # |G|^2 is then now above, now below 0, as noise may have it
    with pytest.raises(
        RecipeError, match="5 measurements the gradient drowns in the noise: the critical batch is above"
    ):
        windows(drowned)
    with pytest.raises(RecipeError, match="4 measurements of the gradient noise are too few"):
        windows(rows([100], each=4))


def test_noise_below_none_tells_nothing(tmp_path, capsys):
    """A micro-batch that is measured in part may be less noisy than the whole, by chance, however sure that
    is of the few rows.
    """
    found = rows([100], each=5)
    for row, gradient, trace in zip(
        found, (1.2, -1, 0.9, -0.8, 0.3), (-1, -1.1, -0.9, -1.05, -0.95), strict=True
    ):
        row |= {"small_square": gradient + trace / 16, "large_square": gradient + trace / 64}
    with pytest.raises(RecipeError, match="in 5 measurements"):
        windows(found)


def drowned_end(*, parts=8, told=2, each=20):
    """Rows whose noise scale is 100 in the first parts of the run; the rest, a few bursts among next to
    nothing, allow any.
    """
    found, generator = rows([100] * parts, each=each), np.random.default_rng(0)
    for row in found[told * each :]:
        row |= dict(
            zip(
                ("small_square", "large_square"), 1e-4 * np.exp(4 * generator.standard_normal(2)), strict=True
            )
        )
    return found


def test_an_end_that_allows_any_noise_scale_is_averaged_with_what_was_before():
    found = windows(drowned_end(parts=4, told=3))
    assert len(found) < 8 and sum(len(window.measured) for window in found) == 80
    assert advise(found).critical_batch == pytest.approx(100, rel=0.1)
    with pytest.raises(RecipeError, match=r"in 20 measurements .*nothing can be said.*micro_batch_size"):
        windows(drowned_end(told=0)[:20])


def test_less_than_one_example_is_no_batch(tmp_path, capsys):
    rows_below = gaussian_rows([0.03] * 40, seed=0)
    recipe = Recipe().vary(batch_size=32, bn_batch_size=8, model=dict(name="cifar_resnet8"))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "plan.json").write_text(make_plan(recipe, 1).to_json())
    write_rows(tmp_path, rows_below)
    assert main(["batch", str(tmp_path)]) == 0
    assert "critical batch below 1 (95%: below 1)" in capsys.readouterr().out
    table = json.loads((tmp_path / "landscape" / "batch.json").read_text())["table"]
    assert [row["batch_size"] for row in table] == [1, 2, 4, 8]


def test_a_growing_batch_counts_with_what_it_was():
    """20 steps at 32, then 20 at 128, the batch growing inside a window."""
    first, last = rows([96], batch=32, small=8, spread=0, every=1), rows([96], batch=128, spread=0, every=1)
    for row in last:
        row["examples"] += first[-1]["examples"]
    (window,) = _cut([*first[8:], *last[:8]], 1)
    assert window.steps == {32: 20, 128: 8}
    advice = advise([window])
    assert advice.min_steps == pytest.approx(
        20 / (1 + 96 / 32) + 8 / (1 + 96 / 128)
    ) and advice.critical_batch == pytest.approx(96)
    assert advise(windows(first + last)).min_steps == pytest.approx(20 / (1 + 96 / 32) + 20 / (1 + 96 / 128))


def test_an_advised_batch_is_never_more_than_an_eighth_of_the_data():
    found = windows(rows([40_000] * 8, batch=4096))
    (word, growth) = batch_schedule(found, train_examples=50_000, whole=32)
    assert word == "batch_size=4096", "6,250 is an eighth, and 8,192 the nearest power of two"
    assert growth == "schedule.batch_growth=", "what a recipe grew by before is taken back"
    assert (
        Recipe()
        .vary(schedule=dict(batch_growth=["10ep:3"]))
        .with_overrides([word, growth])
        .schedule.batch_growth
        == []
    )
    assert batch_schedule(found, train_examples=200, whole=32)[0] == "batch_size=32", (
        "one ghost batch there must be"
    )


def test_where_no_noise_shows_nothing_is_advised():
    """Small batches whose gradients are no longer than the large one's, as chance may have it."""
    found = rows([0] * 4, each=5, spread=0.01)
    for row in found:
        row["small_square"] = row["large_square"] - 0.01
    with pytest.raises(
        RecipeError,
        match="in 20 measurements no noise shows beside the gradient: the critical batch is below",
    ):
        windows(found)


@pytest.fixture
def run_dir(tmp_path):
    recipe = Recipe().vary(batch_size=64, bn_batch_size=8, model=dict(name="cifar_resnet8"))
    layers = {
        "weight_norms": {"a": 1.0, "b": 2.0},
        "gradient_norms": {"a": 0.1, "b": 0.0},
        "noise_scales": {"a": 50.0, "b": None},
    }
    noise = rows([50] * 4 + [200] * 4)
    found = noise + [
        {"kind": "layers", "step": row["step"], "examples": row["examples"], **layers} for row in noise[::10]
    ]
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "plan.json").write_text(make_plan(recipe, 1).to_json())
    write_rows(tmp_path, found)
    return tmp_path


def test_the_command_writes_what_others_read(run_dir, capsys):
    assert main(["batch", str(run_dir)]) == 0
    said, result = capsys.readouterr().out, json.loads((run_dir / "landscape" / "batch.json").read_text())
    assert "critical batch" in said and "schedule.batch_growth=" in said and "no upper bound" not in said
    assert (
        50
        < result["critical_batch_interval"][0]
        < result["critical_batch"]
        < result["critical_batch_interval"][1]
        < 200
    )
    assert result["min_steps"] > 0 and result["min_examples"] > 0 and result["measurements"] == 160
    for name in ("batch.png", "layers.png", "batch.html"):
        assert (run_dir / "landscape" / name).stat().st_size > 5000
    page = (run_dir / "landscape" / "batch.html").read_text()
    assert "<small>160 measurements over 102,400 examples</small>" in page, (
        "before its end a run has no summary"
    )
    (run_dir / "summary.json").write_text(
        json.dumps({"commit": "abc1234", "hardware": "2 cores", "versions": {"torch": "2.5"}})
    )
    assert main(["batch", str(run_dir)]) == 0
    page = (run_dir / "landscape" / "batch.html").read_text()
    assert (
        "<small>160 measurements over 102,400 examples; commit abc1234 on 2 cores; torch 2.5</small>" in page
    )


def test_a_noise_scale_of_longer_parts_of_the_run_says_so(run_dir, capsys):
    drowned = rows([300] * 4, each=5, spread=0.3)
    write_rows(run_dir, drowned)
    assert main(["batch", str(run_dir)]) == 0
    assert re.search(
        r"averaged over longer parts of the run, \d in all, .*micro_batch_size.*--until-loss",
        capsys.readouterr().out,
    )


def test_the_picture_of_the_tradeoff_is_read_without_guessing():
    for critical in (25, 61, 93, 120, 5000):
        axes = Figure().subplots()
        chart._draw_tradeoff(axes, Advice(critical, (critical / 2, None), 5.3, 5.3 * critical))
        curve, *points = (line.get_xdata() for line in axes.lines if len(line.get_xdata()) != 2)
        assert len(points) >= 8 and all(min(curve) <= point[0] <= max(curve) for point in points), (
            "batch sizes lie on the curve"
        )
        axes.figure.canvas.draw()
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            assert sum(low <= place <= high for place in axis.get_majorticklocs()) >= 3, (
                "an axis carries numbers"
            )


def test_the_course_has_a_band_for_every_window():
    axes, found = Figure().subplots(), windows(rows([300] * 4, each=5, spread=0.3))
    chart._draw_course(axes, found, 1000, [])
    assert len(axes.collections) == len(found)


def test_a_schedule_that_the_plan_rejects_is_not_advised(run_dir, capsys):
    """Detection takes no batch that grows, and whole losses besides whole ghost batches."""
    changes = dict(
        bn_batch_size=4,
        loss_batch_size=12,
        model=dict(library="torchvision", name="resnet10t"),
        data=dict(name="shapes"),
    )
    recipe = Recipe().vary(batch_size=48, **changes)
    (run_dir / "recipe.yaml").write_text(recipe.to_yaml())
    (run_dir / "plan.json").write_text(make_plan(recipe, 1).to_json())
    assert main(["batch", str(run_dir)]) == 0
    said = capsys.readouterr().out
    assert "a batch that follows the noise: " not in said
    assert (
        "no batch schedule that follows the noise: its plan is rejected, schedule.batch_growth=" in said
        and "is for classifiers" in said
    )
    assert json.loads((run_dir / "landscape" / "batch.json").read_text())["schedule"] == []


def test_the_scaling_report_advises_on_what_the_command_wrote(run_dir, tmp_path_factory, capsys):
    assert main(["batch", str(run_dir)]) == 0
    result, report = (
        json.loads((run_dir / "landscape" / "batch.json").read_text()),
        tmp_path_factory.mktemp("report") / "report.json",
    )
    Report(
        rows=[
            Row(gpus=gpus, nodes=1, global_batch=8 * gpus, images_per_s=100.0 * gpus) for gpus in (1, 2, 4, 8)
        ]
    ).save(report)
    capsys.readouterr()
    assert scaling_report(["advise", str(report), "--noise-scale", str(run_dir), "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    assert advice["critical"]["batch"] == result["critical_batch"]
    assert [each["hours"] for each in advice["options"]] == pytest.approx(
        [
            result["min_examples"] * (1 + 8 * gpus / result["critical_batch"]) / (100 * gpus) / 3600
            for gpus in (1, 2, 4, 8)
        ]
    )


def test_what_is_no_run_is_said_to_be_none(tmp_path, capsys):
    assert main(["batch", str(tmp_path)]) == 2
    assert "is not a run directory: it has no recipe.yaml" in capsys.readouterr().err


REFUSED = {
    "spans ranks": (
        4,
        dict(bn_batch_size=32, batch_size=64),
        "a batch-norm batch spans several ranks here. Use bn_batch_size=16, or fewer ranks",
    ),
    "one ghost batch": (
        1,
        dict(bn_batch_size=64, batch_size=64),
        "single batch-norm batch of 64 images. Use bn_batch_size=32",
    ),
    "one loss": (
        1,
        TINY | dict(batch_size=64, bn_batch_size=8, loss_batch_size=64),
        r"\(bn_batch_size=8\) and whole losses \(loss_batch_size=64\). Use bn_batch_size=32 loss_batch",
    ),
    "layers alone": (1, dict(measure=dict(noise_scale="0it", layers=True)), "set measure.noise_scale"),
    "stage 3, one pass": (1, dict(deepspeed=dict(zero_stage=3)), "several micro-batches per step"),
    "distance at stage 3": (
        2,
        dict(deepspeed=dict(zero_stage=3), measure=dict(distance=True)),
        r"measure\.distance=true needs whole weights on every rank\. Use deepspeed.zero_stage=0, 1 or 2",
    ),
    "clipped slices": (
        2,
        dict(engine="colossalai", colossalai=dict(zero_stage=1), optimizer=dict(clip_norm=1.0)),
        "needs gradients before clipping",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_rejected_by_the_plan(case):
    world_size, changes, message = REFUSED[case]
    base = Recipe().vary(
        batch_size=64, bn_batch_size=8, model=dict(name="cifar_resnet8"), measure=dict(noise_scale="5it")
    )
    recipe = base.vary(**changes)
    engine = "colossalai" if "colossalai" in changes else "deepspeed"
    with pytest.raises(RecipeError, match=message):
        make_plan(recipe, world_size, engine=engine)
    make_plan(base, 2, engine=engine)


def test_what_was_measured_when_nothing_was_left_to_learn_can_be_left_out(run_dir):
    def critical(*words: str) -> float:
        assert main(["batch", str(run_dir), *words]) == 0
        return float(json.loads((run_dir / "landscape" / "batch.json").read_text())["critical_batch"])

    rows = [
        {"kind": "train", "step": examples // 64, "examples": examples, "loss": loss}
        for examples, loss in ((25_600, 0.5), (51_200, 0.05), (102_400, 0.01))
    ]  # half of the noise rows lie before 51,200 examples
    write_rows(run_dir, rows, "a")
    assert critical("--until-loss", "0.1") == pytest.approx(50, rel=0.1)
    assert critical("--until-loss", "0.001") == critical() > 60


def test_layers_are_drawn_from_whatever_rows_there_are(run_dir, capsys):
    assert main(["layers", str(run_dir)]) == 0
    assert [path.name for path in (run_dir / "landscape").iterdir()] == ["layers.png"]
    trust = [
        {"kind": "trust", "step": step, "examples": 64 * step, "ratios": {"a": 0.01, "b": 0.02 * step}}
        for step in (1, 2, 3)
    ]
    write_rows(run_dir, trust)
    assert main(["layers", str(run_dir)]) == 0 and (run_dir / "landscape" / "trust.png").stat().st_size > 5000
    (run_dir / "metrics.jsonl").write_text("")
    assert main(["layers", str(run_dir)]) == 2
    assert "measure.layers=true" in capsys.readouterr().err
