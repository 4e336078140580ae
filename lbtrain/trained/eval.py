"""Score a trained model on a split of its data set, each example exactly once, on any number of ranks.

  lbtrain eval runs/digits                                   the newest checkpoint, on the validation split
  lbtrain eval runs/digits/checkpoints/best.pt --split train
  lbtrain eval runs/birds --split test                       another folder of the data set
  torchrun --nproc_per_node 2 -m lbtrain eval runs/digits    under a launcher
  deepspeed --module lbtrain eval runs/digits

Classifiers: top-1 and top-5 error, loss and calibration error; tables of all classes and of the confusion
matrix, which is also drawn. Detectors: COCO's twelve numbers, of masks and of boxes, and the average
precision of every class. All of it is written to evaluation/SPLIT in the run directory.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from lbtrain.console import Console
from lbtrain.data.coco_layouts import coco_files, has_coco
from lbtrain.data.index import printable
from lbtrain.data.pixels import photo_rules
from lbtrain.data.registry import PHOTOS
from lbtrain.engines.ddp import autocast_of
from lbtrain.errors import RecipeError, naming_what_is_closed
from lbtrain.faults.watchdog import Watchdog
from lbtrain.launch.environment import own_arguments
from lbtrain.launch.world import World, check_world, detect_world, ending_exchanges, start_process_group
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.recipe.sections.fields import COCO_FORMAT
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.files import as_csv, as_png, write_whole
from lbtrain.runs.fingerprint import check_same_on_all_ranks
from lbtrain.tasks import Report, create_task
from lbtrain.tasks.classification import plain
from lbtrain.tasks.weights import published_name
from lbtrain.trained.command import naming_out, parser_of, prepare_folder
from lbtrain.trained.model import TrainedModel, open_trained

_SPLITS = ("val", "train")
_SHOWN = 20
"""Classes in the table on the screen; the file has all."""
_HEADS = {
    "recall": "recall %", "precision": "precision %", "most_often_taken_for": "most often taken for",
    "mask_ap": "mask AP %", "box_ap": "box AP %",
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    options = _parser().parse_intermixed_args(own_arguments(words))
    trained = open_trained(options.run, raw=options.raw_weights)
    recipe = _on_split(_as_trained(trained).with_overrides(options.overrides), options.split)
    trained = dataclasses.replace(trained, recipe=recipe)
    if not options.out:
        RunDirectory(trained.run_dir).check_no_link("evaluation", f"evaluation/{options.split}")
    folder = Path(options.out) if options.out else trained.run_dir / "evaluation" / options.split
    watchdog = Watchdog(fault_timeout=trained.recipe.fault_timeout, run_dir=str(trained.run_dir))
    with watchdog, ending_exchanges():
        if detect_world().rank == 0:
            prepare_folder(folder)
        world, report = evaluate(trained, train=options.split == "train")
        if world.rank == 0:
            try:
                _show(report, trained, options.split, folder)
            finally:  # one is there even where the other is not to be had
                with naming_out():
                    _write(folder, report, trained, options.split)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("eval", __doc__)
    text = "overrides of the run's recipe, such as data.root=/other"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    text = "val (the default), train, or another folder of data.root, such as test"
    parser.add_argument("--split", default="val", metavar="SPLIT", help=text)
    parser.add_argument("--out", metavar="FOLDER", help="default: evaluation/SPLIT in the run directory")
    return parser


def _as_trained(trained: TrainedModel) -> Recipe:
    """The recipe with the pixels that the checkpoint has where they are left to the model: an earlier version
    may have taken others for it.
    """
    recipe, inputs, default = trained.recipe, trained.inputs, DataConfig()
    if recipe.data.name not in PHOTOS:
        return recipe
    own = vars(photo_rules(default, published_name(recipe.model)))
    written = {key: [str(value / 255) for value in inputs[key]] for key in ("mean", "std")}
    written |= {key: inputs[key] for key in ("crop_share", "interpolation")}
    left = [key for key in written if getattr(recipe.data, key) == getattr(default, key)]
    return recipe.vary(data={key: written[key] for key in left if inputs[key] != plain(own[key])})


def _on_split(recipe: Recipe, split: str) -> Recipe:
    """Scored on the folder of the data set that `split` names, if that is none of its own splits. Raises
    RecipeError.
    """
    if split in _SPLITS:
        return recipe
    name, coco = recipe.data.name, recipe.data.name in COCO_FORMAT
    if name not in PHOTOS and not coco:
        raise RecipeError(f"--split {split}: the splits of data.name={name} are {', '.join(_SPLITS)}.")
    root = recipe.data.root or os.environ.get("LBTRAIN_DATA", "")
    folder = Path(root).expanduser()
    is_name = bool(root and split.strip(".")) and Path(split).name == split
    with naming_what_is_closed(f"data.root={root}"):
        if is_name and coco:
            return recipe.vary(data=_of_coco(folder, split) | {"validation_share": 0.0})
        if is_name and (folder / split).is_dir():
            return recipe.vary(data=dict(validation_root=str(folder / split), validation_share=0.0))
    raise RecipeError(
        f"--split {split}: the splits are {', '.join(_SPLITS)}, and the folders of data.root={root}. "
        "data.validation_root=FOLDER scores any other folder."
    )


def _of_coco(root: Path, split: str) -> dict[str, Any]:
    """The split of that name, whatever the run was validated on, or the data set in a folder of that name."""
    if has_coco(root / split, "validation"):
        return {"validation_files": [], "validation_root": str(root / split)}
    try:
        files = coco_files(root, "validation", word=split)
    except RecipeError as error:
        raise RecipeError(f"--split {split}: {error}") from error
    named = [str(path.relative_to(root)) for path in (files.annotations, files.photos)]
    return {"validation_files": named, "validation_root": ""}


def evaluate(trained: TrainedModel, *, train: bool) -> tuple[World, Report]:
    """Of the whole split, the same on every rank. Collective."""
    recipe, world = trained.recipe, detect_world()
    check_world(world, 0)
    device = start_process_group(world)
    check_same_on_all_ranks({"checkpoint": str(trained.path), "step": str(trained.step)})
    task = create_task(recipe, device)
    check_same_on_all_ranks(task.index().parts())
    _check_classes(trained, task.about()["class_names"])
    with autocast_of(recipe.precision, device):
        report = task.report(
            trained.build().to(device),
            train=train,
            micro_batch_size=recipe.validation_batch_size or images_at_once(recipe),
            rank=world.rank,
            world_size=world.world_size,
        )
    return world, report


def images_at_once(recipe: Recipe) -> int:
    """No more images than a training that may have filled the memory, and 64 at most."""
    most = recipe.micro_batch_size or recipe.max_micro_batch_size or recipe.batch_size
    return min(64, most, recipe.batch_size)


def _check_classes(trained: TrainedModel, names: Sequence[str]) -> None:
    """Raises RecipeError for data whose classes are numbered otherwise: every score would be wrong."""
    if list(names) != trained.class_names:
        differing = [pair for pair in zip(trained.class_names, names, strict=False) if pair[0] != pair[1]]
        first = f"; the first that differs is {differing[0][0]} there and {differing[0][1]} here" * bool(
            differing
        )
        raise RecipeError(
            f"The data set has {len(names)} classes and the model {len(trained.class_names)}, or they have "
            f"other names{first}. Evaluate on data with the classes of the training set, in the same order."
        )


def _write(folder: Path, report: Report, trained: TrainedModel, split: str) -> None:
    about = {"checkpoint": str(trained.path), "step": trained.step, "weights": trained.weights_in_words()}
    metrics = about | {"split": split} | report.metrics
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    for name, rows in report.tables.items():
        write_whole(folder / f"{name}.csv", as_csv(rows))
    for name, picture in report.pictures.items():
        write_whole(folder / f"{name}.png", as_png(picture))
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    print("\n" + printable(f"Written to {folder}: {files}"))


def _show(report: Report, trained: TrainedModel, split: str, folder: Path) -> None:
    print(printable(f"{trained.path}, {trained.weights_in_words()} of step {trained.step}, split {split}"))
    for name, value in report.metrics.items():
        print(f"  {name:<20} {value:,.4g}" if name != "examples" else f"  {name:<20} {value:,}")
    rows = report.tables.get("classes", [])
    if rows:
        Console(width=100).print(_table(rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        print(f"  and {len(rows) - _SHOWN} more classes in {printable(str(folder / 'classes.csv'))}")


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    """Numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for key, value in rows[0].items():
        side: Literal["left", "right"] = "left" if isinstance(value, str) else "right"
        table.add_column(_HEADS.get(key, key), justify=side, no_wrap=True, max_width=20)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return (
        escape(printable(value)) if isinstance(value, str) else f"{value:,.{2 * isinstance(value, float)}f}"
    )
