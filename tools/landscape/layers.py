"""`layers RUN_DIR`: You et al. 2017, Table 2, over a whole run: how large each layer's gradient and its step
are beside its weights.
"""

from lbtrain.errors import RecipeError

from . import chart
from .runs import Run


def layers(run: Run) -> str:
    """Writes landscape/layers.png from measured layers, trust.png from the ratios that LARS or LAMB stepped
    with; returns their paths.
    """
    pictures = []
    for kind, name, draw in (
        ("layers", "layers.png", chart.draw_layers),
        ("trust", "trust.png", chart.draw_ratios),
    ):
        if rows := run.rows(kind):
            run.folder.mkdir(exist_ok=True)
            draw(rows, run.plan["train_examples"], run.folder / name)
            pictures.append(run.folder / name)
    if not pictures:
        raise RecipeError(
            f"{run.path} has no layer-wise rows: train with measure.noise_scale=20it measure.layers=true, "
            "or with LARS or LAMB"
        )
    return "\n".join(map(str, pictures))
