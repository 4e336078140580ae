"""Charts: what every picture has in common."""

from matplotlib.figure import Figure

from tools.kit.charts import Chart


def test_a_long_title_is_wrapped_into_its_chart():
    figure = Figure(figsize=(5.4, 4.3), layout="constrained")
    title = "Fashion-MNIST (4,096 images), reduced AlexNet, 2,048 images a step: batch 2,048"
    Chart(title, "nothing", lambda axes: None).into(figure)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    shown = axes.title.get_window_extent()
    assert axes.get_title().replace("\n", " ") == title
    assert shown.x0 >= 0 and shown.x1 <= figure.bbox.x1
