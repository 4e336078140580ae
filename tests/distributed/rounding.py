"""Where fp32 losses agree to 1e-5: how rounding grows over the first 20 steps of a recipe.

    python -m tests.distributed.rounding

Every recipe makes its first 20 steps on one rank, with the batch in one piece and again in two micro-batches,
which is the same arithmetic in another order. Writes the largest relative differences of the losses so far to
results/rounding.csv, and the table in docs/reproducibility.md.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench import rows
from lbtrain import Recipe, load_recipe
from lbtrain.nn import regroup_ghost_batches
from lbtrain.plan.plan import make_plan
from lbtrain.run import build_bare_model, build_engine
from lbtrain.tasks import create_task
from tools.kit.publish import with_block

STEPS, LIMIT = 20, 1e-5
SHOWN = (2, 5, 10, 20)
PAGE = Path(__file__).parents[2] / "docs" / "reproducibility.md"
RESNET18 = Recipe().vary(
    batch_size=16,
    bn_batch_size=8,
    duration="20it",
    model=dict(name="resnet18"),
    data=dict(name="synthetic", image_size=64),
    schedule=dict(base_lr=0.05, rule="none", warmup="0it", decay="none"),
)
DIGITS = ("", "_batch_growth", "_720", "_720_lars", "_720_lamb", "_720_no_warmup", "_720_unscaled")
CASES: dict[str, Recipe] = {
    **{f"digits/digits{name}": load_recipe(f"digits/digits{name}") for name in DIGITS},
    "resnet18, 64 pixels, ghost batch 8, rate 0.05, no warm-up": RESNET18,
    "the same, with a warm-up from 0.001": RESNET18.vary(schedule=dict(warmup="20it", warmup_start_lr=0.001)),
    "the same, at a rate of 0.001": RESNET18.vary(schedule=dict(base_lr=0.001)),
}


def losses(recipe: Recipe, micro_batch_size: int) -> list[float]:
    """Of the first steps, over the whole batch."""
    device = torch.device("cpu")
    recipe = recipe.vary(micro_batch_size=micro_batch_size)
    plan = make_plan(recipe, 1)
    task, model = create_task(recipe, device), build_bare_model(recipe, plan, device)
    engine, _ = build_engine(plan, model.train(), device)
    regroup_ghost_batches(engine.model, 1, plan.phases[0].bn_momentum)
    batches = task.batches(start=0, micro_batch_size=micro_batch_size, rank=0, world_size=1)
    found = []
    for step in range(STEPS):
        total = 0.0
        for _ in range(engine.accumulation):
            loss = task.loss(engine.model, next(batches)).total
            engine.backward(loss)
            total += loss.item() / engine.accumulation
        engine.step(plan.lr(step * recipe.batch_size))
        found.append(total)
    return found


def row(name: str, recipe: Recipe) -> dict[str, Any]:
    """A row of results/rounding.csv."""
    whole, parts = (losses(recipe, size) for size in (recipe.batch_size, recipe.batch_size // 2))
    differences = [abs(a / b - 1) for a, b in zip(parts, whole, strict=True)]
    agree = next((step for step, off in enumerate(differences) if off > LIMIT), STEPS)
    shown = {f"{step} steps": f"{max(differences[:step]):.0e}" for step in SHOWN}
    return {"recipe": name, **shown, "steps that agree": f"{agree} of {STEPS}"}


def table(lines: list[dict[str, str]]) -> str:
    head = ("recipe", *(f"{step} steps" for step in SHOWN), "steps that agree")
    cells = [head, ["---"] * len(head), *([line[name] for name in head] for line in lines)]
    return "\n".join(f"| {' | '.join(each)} |" for each in cells)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    lines = []
    for name, recipe in CASES.items():
        lines.append(row(name, recipe) | {"command": "python -m tests.distributed.rounding"})
        print(lines[-1], flush=True)
    rows.replace(lines, "rounding")
    if PAGE.is_relative_to(rows.RESULTS.parent):
        PAGE.write_text(with_block(PAGE.read_text(), "rounding", table(lines)))


if __name__ == "__main__":
    main()
