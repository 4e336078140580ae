"""Launch every point of a scaling study and keep each step's time of each rank.

Each point is launched with and without gradient exchange; the difference is the communication that backward
did not hide. A point that fails or runs past its time is recorded with the reason, and the others go on. The
folder --out must be shared by all hosts.

GPU counts take whole hosts from the hostfile, the first ones first. Run this on the first host.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import platform
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lbtrain.data import dataset_info
from lbtrain.data.registry import FOR_PHOTOS
from lbtrain.errors import RecipeError
from lbtrain.launch.hostfile import Hostfile, read_hostfile
from lbtrain.plan.plan import make_plan
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.recipe.files import load_recipe
from lbtrain.runs.provenance import commit, hardware, versions

from ..kit.start import launched
from . import arguments
from .measuring.launchers import LAUNCHERS, commands, run_together
from .measuring.timings import RankTimes, own_times, read_ranks, summarize
from .report import (
    Collective,
    OwnTimes,
    Report,
    ReportError,
    Row,
    with_data_wait,
    with_efficiency,
)

EXAMPLES = """\
weak and strong scaling on 8 to 256 GPUs, synthetic against real data, three times each:
  measure --hostfile hostfiles/32x8 --gpus 8,16,32,64,128,256 --mode weak,strong --data synthetic,real \\
          --repeats 3 --out runs/scaling recipes/imagenet/resnet50.py data.root=/data/imagenet
ZeRO stages side by side, two micro-steps a step:
  measure ... --zero 0,1,2,3 --accumulation 2
this machine alone, two processes:
  measure --hostfile hostfiles/local --gpus 2 --out runs/local recipes/digits/digits.py data.image_size=32
"""
TIMED_RUN = launched("scaling_report.measuring.timed_run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--hostfile", required=True, help="which hosts, and how many GPUs on each (hostfiles/README.md)"
    )
    parser.add_argument("--gpus", type=arguments.sizes, required=True, help="sizes, for example 8,16,32")
    parser.add_argument(
        "--mode",
        type=arguments.one_of("weak", "strong"),
        default=["weak"],
        help="weak, strong or both (default weak)",
    )
    parser.add_argument(
        "--data",
        type=arguments.one_of("synthetic", "real"),
        default=["synthetic"],
        help="synthetic, real or both",
    )
    parser.add_argument(
        "--zero",
        type=arguments.stages,
        help="ZeRO stages, for example 0,1 (default the recipe's; needs deepspeed)",
    )
    parser.add_argument(
        "--accumulation",
        type=arguments.sizes,
        default=[1],
        help="micro-steps of a step, for example 1,4 (default 1)",
    )
    parser.add_argument(
        "--repeats", type=arguments.count, default=1, help="launches of each point (default 1)"
    )
    parser.add_argument(
        "--steps", type=arguments.count, default=30, help="steps timed in a launch (default 30)"
    )
    parser.add_argument(
        "--warmup", type=arguments.count, default=5, help="steps left out before them (default 5)"
    )
    parser.add_argument(
        "--per-gpu-batch",
        type=arguments.count,
        help=(
            "weak: images a GPU passes at once (default: the recipe's bn_batch_size or "
            "max_micro_batch_size, the smaller)"
        ),
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="deepspeed", help="default deepspeed")
    parser.add_argument(
        "--timeout", type=arguments.count, default=600, help="seconds a launch may take (default 600)"
    )
    parser.add_argument(
        "--port", type=arguments.count, default=29500, help="first rendezvous port (default 29500)"
    )
    parser.add_argument(
        "--collectives",
        action="store_true",
        help="also time all-reduces at every size above 1: `fit` and `predict` use them",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the points of --out that succeeded, launch the rest"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for timings, logs and report.json")
    parser.add_argument("recipe", type=Path, help="a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")


@dataclass
class Point:
    """What one configuration gave: its row, and what a run without exchange showed of the ranks."""

    row: Row
    buckets: dict[str, Any] | None = None
    own_times: list[OwnTimes] = field(default_factory=list)


class Study:
    """What all points share."""

    def __init__(self, options: argparse.Namespace, hosts: Hostfile, recipe: Recipe):
        self.options, self.hosts, self.recipe = options, hosts, recipe
        self._launches_left, self._launched, self._spent = 0, 0, 0.0

    def rows(self) -> list[Row]:
        """The rows of all points before they are measured; a point that cannot be is rejected in its
        status.
        """
        options = self.options
        stages = options.zero or [self.recipe.zero_stage_under(self.engine)]
        points = itertools.product(options.mode, options.data, stages, options.accumulation, options.gpus)
        rows = [self.row(gpus, mode, data, stage, passes) for mode, data, stage, passes, gpus in points]
        sweeps = sum(gpus > 1 for gpus in options.gpus) if options.collectives else 0
        self._launches_left = (1 + options.repeats) * sum(row.status == "ok" for row in rows) + sweeps
        return rows

    def row(self, gpus: int, mode: str, data: str, stage: int = 0, passes: int = 1) -> Row:
        """Weak scaling keeps the images of a GPU and pass, strong scaling those of a step."""
        per_gpu = self.options.per_gpu_batch or _images_at_once(self.recipe)
        batch = per_gpu * gpus * passes if mode == "weak" else self.recipe.batch_size
        row = Row(
            gpus=gpus,
            nodes=len(self.hosts.subset(gpus).names),
            mode=mode,
            data=data,
            global_batch=batch,
            accumulation=passes,
            per_gpu_batch=batch // (gpus * passes),
            zero_stage=stage,
            precision=self.recipe.precision,
        )
        if stage and self.engine not in ("deepspeed", "colossalai"):
            return dataclasses.replace(
                row, status=f"rejected: ZeRO stage {stage} needs DeepSpeed or ColossalAI, not {self.engine}"
            )
        if batch % (gpus * passes):
            passed = f" in {passes} micro-steps" if passes > 1 else ""
            return dataclasses.replace(
                row, status=f"rejected: batch_size={batch} cannot be split over {gpus} GPUs{passed}"
            )
        try:
            make_plan(self.recipe.with_overrides(self._settings(row)), gpus, engine=self.engine)
        except RecipeError as error:
            return dataclasses.replace(row, status=f"rejected: {error}")
        return row

    @property
    def engine(self) -> str:
        """Of lbtrain, that the launcher brings with it or the recipe asks for."""
        chosen = (
            self.options.launcher
            if self.options.launcher in ("deepspeed", "accelerate", "colossalai")
            else "ddp"
        )
        return self.recipe.engine_under(chosen)

    def launch(self, name: str, gpus: int, words: list[str]) -> tuple[Path, str]:
        """Run `words` on `gpus` GPUs; (the folder of what it wrote, "ok" or why not). A point that succeeded
        before is kept.
        """
        folder = self.options.out.resolve() / "points" / name
        done = folder / "status"
        self._launches_left -= 1
        if done.exists() and done.read_text() == "ok":
            return folder, "ok"
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        hosts = self.hosts.subset(gpus)
        (folder / "hostfile").write_text(
            hosts.text("colossalai" if self.options.launcher == "colossalai" else "deepspeed")
        )
        words = [word.replace("{folder}", str(folder)) for word in words]
        # A port of its own for each launch: the last one's may still be closing.
        port = self.options.port + len(list(folder.parent.iterdir())) % 1000
        launched = commands(
            self.options.launcher,
            hosts,
            words,
            hostfile=folder / "hostfile",
            port=port,
            timeout_s=self.options.timeout,
        )
        status = run_together(launched, folder / "log.txt", timeout_s=self.options.timeout)
        if status != "ok":
            status = f"{status}: {_last_words(folder / 'log.txt')}"
        done.write_text(status)
        self._launched, self._spent = self._launched + 1, self._spent + time.monotonic() - began
        left = max(0, self._launches_left) * self._spent / self._launched / 60
        print(f"{name}: {status} ({time.monotonic() - began:.0f} s; about {left:.0f} min left)", flush=True)
        return folder, status

    def time_point(self, row: Row) -> Point:
        if row.status != "ok":
            print(f"{_name(row)}: {row.status}", flush=True)
            return Point(row)
        runs: list[list[RankTimes]] = []
        for run in ("no-exchange", *(f"repeat{number}" for number in range(self.options.repeats))):
            exchange = "no-exchange" if run == "no-exchange" else "exchange"
            # Alone, all stages compute the same: they share that run.
            name = _name(dataclasses.replace(row, zero_stage=0) if exchange == "no-exchange" else row)
            folder, status = self.launch(f"{name}-{run}", row.gpus, self.words(row, exchange))
            if status != "ok":
                return Point(dataclasses.replace(row, status=status))
            try:
                runs.append(read_ranks(folder, row.gpus, warmup=self.options.warmup))
            except ReportError as error:
                return Point(dataclasses.replace(row, status=str(error)))
        return Point(summarize(row, runs[1:], runs[0]), runs[0][0].buckets, own_times(runs[0]))

    def words(self, row: Row, exchange: str) -> list[str]:
        # Sharded gradients cannot but be exchanged; what the stages compute is the same.
        shown = dataclasses.replace(row, zero_stage=0) if exchange == "no-exchange" else row
        settings = [
            *self._settings(shown),
            *self._size(row),
            "log_every=1000000it",
            "run_dir={folder}/run",
            "resume=never",
        ]
        # The interval to the step before is what is timed: one step more than asked for.
        steps = self.options.warmup + self.options.steps + 1
        return [
            *TIMED_RUN,
            "{folder}",
            str(steps),
            exchange,
            str(self.options.recipe.resolve()),
            *self.options.overrides,
            *settings,
        ]

    def _settings(self, row: Row) -> list[str]:
        # The learning rate has no say in the speed, but a rate that is scaled up could end the run with a
        # NaN.
        settings = [
            f"batch_size={row.global_batch}",
            f"micro_batch_size={row.per_gpu_batch}",
            "schedule.rule=none",
            "schedule.batch_growth=",
        ]
        if self.engine in ("deepspeed", "colossalai"):
            settings.append(f"{self.engine}.zero_stage={row.zero_stage}")
        return [*settings, *synthetic_settings(self.recipe)] if row.data == "synthetic" else settings

    def _size(self, row: Row) -> list[str]:
        """Synthetic images are as large as the recipe's; a detector resizes drawn shapes as it does
        photos.
        """
        try:
            return (
                [f"data.image_size={dataset_info(self.recipe.data).image_size}"]
                if row.data == "synthetic"
                else []
            )
        except RecipeError:  # a folder of images that is not there: synthetic data does without
            return []

    def sweep(self, gpus: int) -> list[Collective]:
        folder, status = self.launch(f"collectives-{gpus}", gpus, [*TIMED_RUN, "{folder}", "collectives"])
        if status != "ok":
            return []
        nodes = len(self.hosts.subset(gpus).names)
        return [
            Collective(gpus=gpus, nodes=nodes, **each)
            for each in json.loads((folder / "collectives.json").read_text())
        ]


def synthetic_data(recipe: Recipe) -> str:
    """The data set that nobody has to fetch or decode: noise for classification, drawn shapes for
    detection.
    """
    return "synthetic" if recipe.model.library == "timm" else "shapes"


def synthetic_settings(recipe: Recipe) -> list[str]:
    """Overrides of `recipe` for data that nobody has to fetch, without the keys that only photos take."""
    usual = DataConfig()
    changed = [key for key in FOR_PHOTOS if getattr(recipe.data, key) != getattr(usual, key)]
    return [f"data.name={synthetic_data(recipe)}", *(f"data.{key}={getattr(usual, key)}" for key in changed)]


def _computes_alike(recipe: Recipe) -> bool:
    """Whether a step of synthetic data computes what one of real data does: drawn shapes are of other sizes
    and objects than photos.
    """
    return recipe.model.library == "timm"


def _images_at_once(recipe: Recipe) -> int:
    """What a GPU holds where nothing else is asked for: a ghost batch, as far as the recipe allows so
    many.
    """
    return min(recipe.bn_batch_size, recipe.max_micro_batch_size or recipe.bn_batch_size)


def _name(row: Row) -> str:
    stage = f"-zero{row.zero_stage}" if row.zero_stage else ""
    return f"{row.mode}-{row.data}-{row.gpus}{stage}" + (
        f"-passes{row.accumulation}" if (row.accumulation or 1) > 1 else ""
    )


def run(options: argparse.Namespace) -> int:
    _check_folder(options)
    recipe = load_recipe(options.recipe).with_overrides(options.overrides)
    study = Study(options, read_hostfile(options.hostfile), recipe)
    if {"synthetic", "real"} <= set(options.data):
        _check_comparable(recipe)
    report, points = Report(provenance=_provenance(options)), study.rows()
    # Only now: a question that cannot be leaves no folder behind.
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / _NOTE).write_text(json.dumps(_asked(options), indent=1))
    if options.collectives:
        report.collectives = [each for gpus in options.gpus if gpus > 1 for each in study.sweep(gpus)]
    for row in points:
        point = study.time_point(row)
        rows = with_efficiency([*report.rows, point.row])
        report.rows = with_data_wait(rows) if _computes_alike(recipe) else rows
        report.own_times += point.own_times
        if point.buckets:
            report.provenance.setdefault("buckets", point.buckets)
        # Written after every point, so that a study that is broken off has a report.
        report.save(options.out / "report.json")
    failed = [row for row in report.rows if row.status != "ok"]
    print(
        f"{len(report.rows) - len(failed)} of {len(report.rows)} points measured: "
        f"{options.out / 'report.json'}"
    )
    return 0


_NOTE = "study.json"


def _asked(options: argparse.Namespace) -> dict[str, str]:
    return {
        name: str(getattr(options, name))
        for name in ("recipe", "overrides", "launcher", "steps", "warmup", "per_gpu_batch")
    }


def _check_folder(options: argparse.Namespace) -> None:
    """Raises ReportError where --out holds another study than the one asked for."""
    if not options.out.exists() or not any(options.out.iterdir()):
        return
    if not options.resume:
        raise ReportError(f"{options.out} is not empty: pass --resume or another --out")
    asked, note = _asked(options), options.out / _NOTE
    before = json.loads(note.read_text()) if note.exists() else {}
    for name in asked:
        if before.get(name) != asked[name]:
            raise ReportError(
                f"{options.out} was measured with {name}={before.get(name)}, not {asked[name]}: ask for the "
                "same, or give another --out"
            )


def _check_comparable(recipe: Recipe) -> None:
    """Synthetic images must be of the real ones' kind, or the difference is not the loader's."""
    real, synthetic = (
        dataset_info(recipe.data),
        dataset_info(recipe.with_overrides(synthetic_settings(recipe)).data),
    )
    if real.channels != synthetic.channels:
        raise RecipeError(
            f"--data synthetic,real: images of {recipe.data.name} have {real.channels} channel(s), "
            f"synthetic ones {synthetic.channels}, "
            "so the difference would not be the loader's; measure one of them"
        )


def _provenance(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    asked = {name: getattr(options, name) for name in ("overrides", "launcher", "steps", "repeats")}
    origin = {
        "commit": commit(),
        "date": str(datetime.date.today()),
        "hardware": hardware(),
        "versions": versions(),
    }
    return {"recipe": options.recipe.name, **asked, "host": socket.gethostname(), "device": device, **origin}


def _last_words(log: Path) -> str:
    """The line of a log that most likely says what went wrong."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    # A rank's own words stand before what its launcher says about it.
    own = [line for line in lines if line.startswith("error:")]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (own or errors or lines or ["no output"])[-1][:300]
