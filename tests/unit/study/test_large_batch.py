"""Measured sweeps beside published curves: read as they stand, and never mixed."""

import json

from tools.study.large_batch import draw, measured, published


def test_published_curves_say_who_printed_them():
    found = published()
    assert list(found) == ["ResNet-50", "AlexNet", "AlexNet-BN"]
    curves = [curve for own in found.values() for curve in own]
    assert all(" 20" in curve.source or "README" in curve.source for curve in curves)
    goyal = next(curve for curve in curves if curve.arm.startswith("linear rule"))
    assert dict(zip(goyal.batch_sizes, goyal.errors, strict=True))[8192] == 23.74 and goyal.stds[6] == 0.09


def test_a_point_where_every_run_diverged_has_a_cross_and_no_error():
    rows = [
        {"arm": arm, "batch_size": size, "mean": mean, "std": 0.1, "diverged": 5 * (mean is None)}
        for arm, size, mean in (("a", 64, 2.0), ("a", 32, 1.0), ("a", 128, None), ("b", 32, None))
    ]
    curve, lost = measured({"rows": rows})
    assert (curve.batch_sizes, curve.errors, curve.diverged, curve.source) == (
        (32, 64),
        (1.0, 2.0),
        (128,),
        "measured",
    )
    assert (lost.batch_sizes, lost.diverged) == ((), (32,))


def test_the_picture_has_both_kinds_of_panels(tmp_path):
    sweep = {
        "title": "ours",
        "rows": [{"arm": "a", "batch_size": 32, "mean": 1.0, "std": 0.1, "diverged": 1}],
    }
    draw({sweep["title"]: measured(json.loads(json.dumps(sweep)))}, published(), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
