"""Measured sweeps beside published curves: read as they stand, and never mixed."""

from matplotlib.figure import Figure

from tools.kit.charts import look
from tools.study.curves import Curve, draw, looks_of, measured
from tools.study.large_batch import draw_panels, published


def test_published_curves_say_who_printed_them():
    found = published()
    assert list(found) == ["ResNet-50", "AlexNet", "AlexNet-BN"]
    curves = [curve for own in found.values() for curve in own]
    assert all(" 20" in curve.source or "README" in curve.source for curve in curves)
    goyal = next(curve for curve in curves if curve.arm == "linear + warm-up")
    assert dict(zip(goyal.batch_sizes, goyal.means, strict=True))[8192] == 23.74 and goyal.stds[6] == 0.09


def test_a_point_where_every_run_diverged_has_a_cross_and_no_error():
    rows = [
        {"arm": arm, "batch_size": size, "mean": mean, "std": 0.1, "n": 5, "diverged": 5 * (mean is None)}
        for arm, size, mean in (("a", 64, 2.0), ("a", 32, 1.0), ("a", 128, None), ("b", 32, None))
    ]
    curve, lost = measured(rows)
    assert (curve.batch_sizes, curve.means, curve.diverged, curve.source) == (
        (32, 64),
        (1.0, 2.0),
        (128,),
        "measured",
    )
    assert (lost.batch_sizes, lost.diverged) == ((), (32,))


def test_the_picture_has_both_kinds_of_panels(tmp_path):
    sweep = {
        "title": "ours",
        "rows": [{"arm": "a", "batch_size": 32, "mean": 1.0, "std": 0.1, "n": 4, "diverged": 1}],
    }
    draw_panels({sweep["title"]: measured(sweep["rows"])}, published(), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_every_arm_has_a_colour_and_a_marker_and_a_single_run_is_hollow_without_a_bar():
    axes = Figure().subplots()
    names = [f"arm {number}" for number in range(8)]
    draw(axes, [Curve(name, (128, 4096), (20.0, 30.0 + len(name)), (1.0, None)) for name in names])
    handles, labels = axes.get_legend_handles_labels()
    assert labels == [*names, "one run, or no deviation known"]
    assert len({handle.get_color() for handle in handles[:8]}) == 8
    assert len({handle.get_marker() for handle in handles[:8]}) == 8
    assert [round(bars[0].get_xdata()[0]) > 1000 for bars in axes.containers] == [False] * 8
    hollow = [line for line in axes.lines if line.get_fillstyle() == "none" and len(line.get_xdata())]
    assert len(hollow) == 8 and all(line.get_xdata()[0] > 1000 for line in hollow)


def test_the_legend_names_the_curves_in_the_order_in_which_they_end():
    axes = Figure().subplots()
    ends = dict(low=1.0, high=9.0, middle=5.0)
    draw(
        axes, [Curve(name, (32,), (end,), (0.1,)) for name, end in ends.items()] + [Curve("lost", (), (), ())]
    )
    assert axes.get_legend_handles_labels()[1] == ["high", "middle", "low", "lost"]


def test_a_method_looks_alike_beside_any_others():
    many = looks_of(["unscaled", "linear", "linear + warm-up", "resnet8_4k_sgd", "resnet8_4k_muon"])
    few = looks_of(["digits_720_muon", "SGD, best of the rates tried", "unscaled"])
    assert few["digits_720_muon"] == many["resnet8_4k_muon"] != many["resnet8_4k_sgd"]
    assert few["SGD, best of the rates tried"] == many["resnet8_4k_sgd"]
    # A second arm of a method has its colour, others take what is free: no two arms of a picture look alike,
    # and none is a method by a part of a word.
    other = looks_of(["one_muon", "other_muon", "linearly", "unscaled", "plain"])
    assert other["one_muon"] == many["resnet8_4k_muon"] and other["unscaled"] == many["unscaled"]
    assert look(other["other_muon"])["color"] == look(other["one_muon"])["color"]
    assert sorted(other.values()) == [0, 1, 2, 7, 15]
    assert looks_of(["linear", "linear"]) == {"linear": 1}  # an arm at two batch sizes
