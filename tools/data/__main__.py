"""Print what a data set holds, as a run prints it at its start: images and classes of each split, a
fingerprint that is the same wherever the same data are, and everything that was left out, linked, repeated,
merged or guessed.

  lbtrain data FOLDER                              photos in any layout (docs/data.md), or COCO's
  lbtrain data FOLDER data.validation_share=0.1    with keys of a recipe
  lbtrain data FOLDER --check                      decode every image too

Exit codes: 0 all is well, 2 the folder holds no data set, 6 an image or an annotation cannot be read.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lbtrain.data import PhotoSource, dataset_index, open_instances, open_source
from lbtrain.data.coco_layouts import has_coco
from lbtrain.data.instances import InstanceSource
from lbtrain.errors import DataError, naming_what_is_closed
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.recipe.sections.fields import COCO_FORMAT

from ..kit import command
from ..kit.progress import bar

_NAMED = 20
_AHEAD = 256


def data_config(folder: str, words: Sequence[str]) -> DataConfig:
    """Photos, or COCO's format where its annotations are there. Raises RecipeError."""
    named = any(word.startswith("data.train_files=") for word in words)
    with naming_what_is_closed(f"data.root={folder}"):
        coco = named or has_coco(Path(folder).expanduser())
    recipe = Recipe().vary(data=dict(name="coco" if coco else "imagefolder", root=folder))
    return recipe.with_overrides(words).data


def show(config: DataConfig, check: bool) -> int:
    for name, text in dataset_index(config).rows():
        print(f"{name:<28} {text}")
    broken = list(_broken(config)) if check else []
    for message in broken[:_NAMED]:
        print(message)
    if check:
        print(f"{len(broken):,} images cannot be read" if broken else "Every image can be read.")
    return DataError.exit_code if broken else 0


def _broken(config: DataConfig) -> Iterator[str]:
    """A message for every image that cannot be read, in the order of the data set."""
    opened: Any = open_instances if config.name in COCO_FORMAT else partial(open_source, seed=0)
    for split, train in (("training", True), ("validation", False)):
        source = opened(config, train=train)
        numbers = iter(range(len(source)))
        with bar(f"{split} images", len(source), stderr=True) as tick, ThreadPoolExecutor() as pool:
            while some := list(islice(numbers, _AHEAD)):
                for message in pool.map(partial(_problem, source), some):
                    tick()
                    if message:
                        yield message


def _problem(source: PhotoSource | InstanceSource, index: int) -> str:
    try:
        source.decode(index) if isinstance(source, PhotoSource) else source[index]
    except DataError as error:
        return str(error)
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data", __doc__)
    parser.add_argument("folder", metavar="FOLDER", help="Root directory of the data set.")
    parser.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="Keys of a recipe, such as data.format=tar."
    )
    parser.add_argument("--check", action="store_true", help="Decode every image.")
    options = parser.parse_intermixed_args(argv)
    return command.exit_code(lambda: show(data_config(options.folder, options.words), options.check))


if __name__ == "__main__":
    sys.exit(main())
