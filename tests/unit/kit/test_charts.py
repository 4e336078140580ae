"""Charts: what every picture has in common."""

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from tools.kit.charts import Chart, error_axis, save


def test_a_long_title_is_wrapped_into_its_chart():
    figure = Figure(figsize=(5.4, 4.3), layout="constrained")
    title = "Fashion-MNIST (4,096 images), reduced AlexNet, 2,048 images a step: batch 2,048"
    Chart(title, "nothing", lambda axes: None).into(figure)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    shown = axes.title.get_window_extent()
    assert axes.get_title().replace("\n", " ") == title
    assert shown.x0 >= 0 and shown.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("errors", "limits"), [([26, 33], (20, 50)), ([5, 95], (2, 100)), ([0.0, 0.4], (0, 1)), ([], (0, 100))]
)
def test_the_axis_of_errors_spans_what_was_drawn(errors, limits):
    axes = Figure().subplots()
    axes.plot(range(len(errors)), errors)
    error_axis(axes, errors)
    assert axes.get_ylim() == limits


def test_many_charts_stand_in_rows_of_equal_charts(tmp_path):
    drawn = []
    charts = [Chart(f"{number}", "", drawn.append, width=2.0, height=1.0) for number in range(5)]
    height, width, _ = imread(save(charts, tmp_path / "x.png")).shape
    assert (height, width) == (2 * 130, 4 * 2 * 130)
    widths = [axes.figure.bbox.width for axes in drawn]
    assert len(drawn) == 5 and max(widths) - min(widths) < 2
