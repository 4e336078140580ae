"""How much of a detection step is padding, with and without groups of like images: counted, not timed, so the
same on every machine.

    python -m bench.padding coco/annotations/instances_train2017.json coco/annotations/instances_val2017.json

Steps of an epoch of recipes/coco/mask_rcnn.py at several batch sizes, over images whose sizes are drawn from
the files. Prints a table, and writes nothing.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import parser
from lbtrain import Recipe
from lbtrain.data.grouping import GroupedStream, kinds_of
from lbtrain.data.instances import Preparation, padded
from lbtrain.data.stream import SampleStream
from lbtrain.recipe.files import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes/coco/mask_rcnn.py"
NUM_IMAGES = 20_000


def padding_share(recipe: Recipe, sizes: NDArray[np.int64]) -> float:
    """The part of all input pixels, over the whole steps of an epoch, that belongs to no image. sizes:
    (height, width), shape (n, 2).
    """
    plain = SampleStream(len(sizes), recipe.seed)
    grouped = recipe.data.group_by != "none"
    stream = (
        GroupedStream(plain, kinds_of(sizes, recipe.data.group_by), recipe.batch_size) if grouped else plain
    )
    edges = tuple(int(edge) for edge in recipe.data.short_edges)
    preparation = Preparation(edges, recipe.data.max_size, flip=True, seed=recipe.seed)
    seen, computed = 0, 0
    for start in range(0, len(sizes) - recipe.batch_size + 1, recipe.batch_size):
        block = stream.block(start, recipe.batch_size)
        inputs = preparation.sizes(block, sizes[block.indices])
        height, width = padded(inputs)
        seen += int(inputs.prod(1).sum())
        computed += height * width * recipe.batch_size
    return 1 - seen / computed


def drawn_from(files: list[Path]) -> NDArray[np.int64]:
    """NUM_IMAGES sizes (height, width) out of those in COCO annotation files."""
    images = [image for file in files for image in json.loads(file.read_text())["images"]]
    sizes = np.array([[image["height"], image["width"]] for image in images], np.int64)
    return np.asarray(sizes[np.random.default_rng(0).integers(len(sizes), size=NUM_IMAGES)])


def table(sizes: NDArray[np.int64]) -> str:
    kinds = ("none", "aspect", "size")
    lines = [
        "| batch | " + " | ".join(f"`group_by={kind}`" for kind in kinds) + " |",
        "|---:|---:|---:|---:|",
    ]
    baseline = load_recipe(RECIPE)
    for batch_size in (16, 32, 64, 128):
        shares = [
            padding_share(baseline.vary(batch_size=batch_size, data=dict(group_by=kind)), sizes)
            for kind in kinds
        ]
        lines.append(f"| {batch_size} | " + " | ".join(f"{100 * share:.1f}%" for share in shares) + " |")
    return "\n".join(lines)


def main() -> None:
    flags = parser("python -m bench.padding", __doc__)
    flags.add_argument("files", nargs="+", type=Path, help="COCO annotation files.")
    print(table(drawn_from(flags.parse_args().files)))


if __name__ == "__main__":
    main()
