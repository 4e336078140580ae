"""The points of a scaling study: which there are, what is launched for each, and what that gave."""

import argparse
import contextlib
import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lbtrain.data import dataset_info
from lbtrain.data.registry import FOR_PHOTOS
from lbtrain.errors import RecipeError
from lbtrain.launch.hostfile import Dialect, Hostfile
from lbtrain.plan.plan import make_plan
from lbtrain.plan.precision import product_precision, resolve_precision
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.runs.files import saving

from ...kit.progress import bar
from ...kit.start import launched
from ..report import Collective, OwnTimes, ReportError, Row
from .launchers import commands, run_together
from .origin import origin
from .timings import RankTimes, own_times, read_ranks, summarize
from .utilisation import Utilisation

TIMED_RUN = launched("scaling_report.measuring.timed_run")


@dataclass
class Point:
    """What one configuration gave: its row, and what a run without exchange showed of the ranks."""

    row: Row
    buckets: dict[str, Any] | None = None
    own_times: list[OwnTimes] = field(default_factory=list)


class Study:
    """What all points share."""

    _tick: Callable[..., None] = staticmethod(print)  # outside `progress`, a line for each launch

    def __init__(self, options: argparse.Namespace, hosts: Hostfile, recipe: Recipe):
        self.options, self.hosts, self.recipe = options, hosts, recipe
        self.points = options.out.resolve() / "points"

    @cached_property
    def utilisation(self) -> Utilisation:
        recipe, _ = resolve_precision(self.recipe, self.engine)
        try:
            return Utilisation.of(recipe)
        except RecipeError:  # a folder of images that is not there, as in `_size`
            return Utilisation.of(recipe.with_overrides(synthetic_settings(recipe)))

    def rows(self) -> list[Row]:
        """The rows of all points before they are measured; a point that cannot be is rejected in its
        status.
        """
        options = self.options
        stages = options.zero or [self.recipe.zero_stage_under(self.engine)]
        points = itertools.product(options.mode, options.data, stages, options.accumulation, options.gpus)
        return [
            self.row(gpus, mode, data, stage, accumulation)
            for mode, data, stage, accumulation, gpus in points
        ]

    @contextlib.contextmanager
    def progress(self, rows: Sequence[Row]) -> Iterator[None]:
        """Shows how many of the launches for `rows` are made, beside those that are kept."""
        with bar("launches", len(self.launches(rows)), done=len(self.kept(rows))) as self._tick:
            yield

    def kept(self, rows: Sequence[Row]) -> list[str]:
        """The names of the launches for `rows` that succeeded before. Raises ReportError where one ran on
        other hosts than it would now.
        """
        kept = {name: gpus for name, gpus in self.launches(rows).items() if self._succeeded(name)}
        for name, gpus in kept.items():
            used = self.points / name / "hostfile"
            if used.read_text(encoding="utf-8") != self._hostfile(gpus):
                raise ReportError(
                    f"{name} was measured on the hosts of {used}, which are not the first {gpus} GPUs of "
                    f"{self.options.hostfile}: name the same hosts there, or give another --out"
                )
        return list(kept)

    def origins(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Where, when and by which code the launches for `rows` were measured, or will be now: the earliest
        first.
        """
        kept = self.kept(rows)
        found = [
            json.loads((self.points / name / "origin.json").read_text(encoding="utf-8")) for name in kept
        ]
        if len(kept) < len(self.launches(rows)) or not found:
            found.append(origin())
        distinct = [each for place, each in enumerate(found) if each not in found[:place]]
        return sorted(distinct, key=lambda each: str(each["date"]))

    def launches(self, rows: Sequence[Row]) -> dict[str, int]:
        """The names of the launches for `rows`, and how many GPUs each takes."""
        names = {name: row.gpus for row in rows if row.status == "ok" for name in self._launches(row)}
        sweeps = self.options.gpus if self.options.collectives else []
        return names | {_sweep_name(gpus): gpus for gpus in sweeps if gpus > 1}

    def _hostfile(self, gpus: int) -> str:
        dialect: Dialect = "colossalai" if self.options.launcher == "colossalai" else "deepspeed"
        return self.hosts.subset(gpus).text(dialect)

    def row(self, gpus: int, mode: str, data: str, stage: int = 0, accumulation: int = 1) -> Row:
        """Weak scaling keeps the images of a GPU and micro-step, strong scaling those of a step."""
        per_gpu = self.options.per_gpu_batch or _images_at_once(self.recipe)
        batch = per_gpu * gpus * accumulation if mode == "weak" else self.recipe.batch_size
        row = Row(
            gpus=gpus,
            nodes=len(self.hosts.subset(gpus).names),
            mode=mode,
            data=data,
            global_batch=batch,
            accumulation=accumulation,
            per_gpu_batch=batch // (gpus * accumulation),
            zero_stage=stage,
        )
        if stage and self.engine not in ("deepspeed", "colossalai"):
            return dataclasses.replace(
                row, status=f"rejected: ZeRO stage {stage} needs DeepSpeed or ColossalAI, not {self.engine}"
            )
        if batch % (gpus * accumulation):
            passed = f" in {accumulation} micro-steps" if accumulation > 1 else ""
            return dataclasses.replace(
                row, status=f"rejected: batch_size={batch} cannot be split over {gpus} GPUs{passed}"
            )
        try:
            plan = make_plan(self.recipe.with_overrides(self._settings(row)), gpus, engine=self.engine)
        except RecipeError as error:
            return dataclasses.replace(row, status=f"rejected: {error}")
        return dataclasses.replace(row, precision=product_precision(plan.recipe))

    @property
    def engine(self) -> str:
        """Of lbtrain, that the launcher brings with it or the recipe asks for."""
        chosen = (
            self.options.launcher
            if self.options.launcher in ("deepspeed", "accelerate", "colossalai")
            else "ddp"
        )
        return self.recipe.engine_under(chosen)

    def _launches(self, row: Row) -> list[str]:
        """The names of the runs of a point: the one without exchange first."""
        # Alone, all stages compute the same: they share that run.
        alone = _name(dataclasses.replace(row, zero_stage=0))
        repeats = [f"{_name(row)}-repeat{number}" for number in range(self.options.repeats)]
        return [f"{alone}-no-exchange", *repeats]

    def _succeeded(self, name: str) -> bool:
        status = self.points / name / "status"
        return status.exists() and status.read_text(encoding="utf-8") == "ok"

    def launch(self, name: str, gpus: int, words: list[str]) -> tuple[Path, str]:
        """Run `words` on `gpus` GPUs; (the folder of what it wrote, "ok" or why not). A point that succeeded
        before is kept.
        """
        folder = self.points / name
        if self._succeeded(name):
            return folder, "ok"
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        with saving(folder):
            folder.mkdir(parents=True)
            (folder / "hostfile").write_text(self._hostfile(gpus), encoding="utf-8")
            (folder / "origin.json").write_text(json.dumps(origin()), encoding="utf-8")
        words = [word.replace("{folder}", str(folder)) for word in words]
        # A port of its own for each launch: the last one's may still be closing.
        port = self.options.port + len(list(folder.parent.iterdir())) % 1000
        launched = commands(
            self.options.launcher,
            self.hosts.subset(gpus),
            words,
            hostfile=folder / "hostfile",
            port=port,
            timeout_s=self.options.timeout,
        )
        status = run_together(launched, folder / "log.txt", timeout_s=self.options.timeout)
        if status != "ok":
            status = f"{status}: {_last_words(folder / 'log.txt')}"
        with saving(folder):
            (folder / "status").write_text(status, encoding="utf-8")
        self._tick(f"{name}: {status} ({time.monotonic() - began:.0f} s)")
        return folder, status

    def time_point(self, row: Row) -> Point:
        if row.status != "ok":
            print(f"{_name(row)}: {row.status}", flush=True)
            return Point(row)
        runs: list[list[RankTimes]] = []
        for name in self._launches(row):
            exchange = "exchange" if runs else "no-exchange"
            folder, status = self.launch(name, row.gpus, self.words(row, exchange))
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
            "schedule.image_sizes=",
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
        folder, status = self.launch(_sweep_name(gpus), gpus, [*TIMED_RUN, "{folder}", "collectives"])
        if status != "ok":
            return []
        nodes = len(self.hosts.subset(gpus).names)
        return [
            Collective(gpus=gpus, nodes=nodes, **each)
            for each in json.loads((folder / "collectives.json").read_text(encoding="utf-8"))
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


def _images_at_once(recipe: Recipe) -> int:
    """What a GPU holds where nothing else is asked for: a ghost batch, as far as the recipe allows so
    many.
    """
    return min(recipe.bn_batch_size, recipe.max_micro_batch_size or recipe.bn_batch_size)


def _sweep_name(gpus: int) -> str:
    return f"collectives-{gpus}"


def _name(row: Row) -> str:
    stage = f"-zero{row.zero_stage}" if row.zero_stage else ""
    return f"{row.mode}-{row.data}-{row.gpus}{stage}" + (
        f"-accumulation{row.accumulation}" if (row.accumulation or 1) > 1 else ""
    )


def _last_words(log: Path) -> str:
    """The line of a log that most likely says what went wrong."""
    lines = [
        line.strip()
        for line in log.read_text(errors="replace", encoding="utf-8").splitlines()
        if line.strip()
    ]
    # A rank's own words stand before what its launcher says about it.
    own = [line for line in lines if line.startswith("error:")]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (own or errors or lines or ["no output"])[-1][:300]
