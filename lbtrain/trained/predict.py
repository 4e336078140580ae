"""Predict the classes of images, or the objects on them, with a trained model.

  lbtrain predict runs/birds photo.jpg more/               a table of names and scores
  lbtrain predict runs/birds more/ --top 5 --out p.csv     or p.json
  lbtrain predict runs/shapes more/ --pictures drawn/      a detector: boxes, and pictures with masks

Images are prepared as in the evaluation of the run. One that cannot be read is named, the others are
predicted, and the exit code is then 6.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lbtrain.data.index import printable
from lbtrain.errors import DataError, RecipeError, naming_the_extra
from lbtrain.launch.world import device_type
from lbtrain.runs.files import as_csv, write_whole
from lbtrain.trained.command import naming_out, parser_of, prepare_folder
from lbtrain.trained.images import image_files, input_of, readable
from lbtrain.trained.model import TrainedModel, open_trained

Row = dict[str, Any]
_BATCH = 32


def main(words: Sequence[str]) -> int:
    options = _parser().parse_args(words)
    broken: list[str] = []
    trained = open_trained(options.run, raw=options.raw_weights)
    paths = image_files(options.images)
    if options.out and Path(options.out).suffix not in (".csv", ".json"):
        raise RecipeError(f"--out {options.out} must end in .csv or .json.")
    if options.out:
        prepare_folder(Path(options.out).parent)
    with naming_the_extra():
        if trained.recipe.model.library == "timm":
            rows = list(_classified(trained, paths, options.top, broken))
        else:
            from lbtrain.trained.detections import detected

            rows = list(detected(trained, paths, options.min_score, options.pictures, broken))
    with naming_out():
        _write(rows, options.out)
    if broken:
        raise DataError(f"{len(broken)} of {len(paths)} images cannot be read: {'; '.join(broken[:5])}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("predict", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    text = "how many classes of each image a classifier names, the likeliest first (default: 1)"
    parser.add_argument("--top", type=_positive, default=1, help=text)
    text = "a detector lists what it finds with this score or more (default: 0.5)"
    parser.add_argument("--min-score", type=float, default=0.5, help=text)
    parser.add_argument(
        "--out", metavar="FILE", help="a file that ends in .csv or .json (default: the screen)"
    )
    parser.add_argument("--pictures", metavar="FOLDER", help="where a detector draws what it finds")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


@torch.no_grad()
def _classified(trained: TrainedModel, paths: Sequence[Path], top: int, broken: list[str]) -> Iterator[Row]:
    """A row per image and rank: image, rank, class, score (softmax)."""
    device = torch.device(device_type())
    model, names = trained.build().to(device), trained.class_names
    prepare = partial(input_of, inputs=trained.inputs, max_pixels=trained.recipe.data.max_pixels)
    for first in range(0, len(paths), _BATCH):
        good = list(readable(paths[first : first + _BATCH], prepare, broken))
        if not good:
            continue
        scores = model(torch.stack([value for *_, value in good]).to(device)).float().softmax(1).cpu()
        likeliest = scores.topk(min(top, len(names)))
        found = zip(good, likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        for (_, path, _), values, numbers in found:
            for rank, (value, number) in enumerate(zip(values, numbers, strict=True), 1):
                yield {"image": str(path), "rank": rank, "class": names[number], "score": round(value, 6)}


def _write(rows: Sequence[Row], out: str | None) -> None:
    if out and out.endswith(".json"):
        write_whole(Path(out), json.dumps(rows, indent=1) + "\n")
        return
    columns = () if rows else ["image"]
    if out:
        write_whole(Path(out), as_csv(rows, columns))
    else:
        sys.stdout.write(as_csv([_on_screen(row) for row in rows], columns))


def _on_screen(row: Row) -> Row:
    return {key: printable(value) if isinstance(value, str) else value for key, value in row.items()}
