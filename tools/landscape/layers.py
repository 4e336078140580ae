"""`layers RUN_DIR`: You et al. 2017, Table 2, over a whole run: how large each layer's gradient and its step
are beside its weights.
"""

from lbtrain.errors import RecipeError

from ..kit.charts import save
from . import chart
from .runs import Run


def layers(run: Run) -> str:
    """Writes landscape/layers.png from measured layers, trust.png from the ratios that LARS or LAMB stepped
    with; returns their paths.
    """
    pictures = []
    examples = run.plan["train_examples"]
    layers, trust = run.rows("layers"), run.rows("trust")
    if layers or trust:
        run.folder.mkdir(exist_ok=True)
    if layers:
        pictures.append(save(chart.layer_charts(layers, examples), run.folder / "layers.png"))
    if trust:
        pictures.append(save([chart.ratio_chart(trust, examples)], run.folder / "trust.png"))
    if not pictures:
        raise RecipeError(
            f"{run.path} has no layer-wise rows: train with measure.noise_scale=20it measure.layers=true, "
            "or with LARS or LAMB"
        )
    return "\n".join(map(str, pictures))
