"""Launch every point of a scaling study and keep each step's time of each rank.

Each point is launched with and without gradient exchange; the difference is the communication that backward did not hide. A point that
fails or runs past its time is recorded with the reason, and the others go on. The folder --out must be shared by all hosts.

GPU counts take whole hosts from the hostfile, the first ones first. Run this on the first host.
"""

import argparse
import dataclasses
import json
import platform
import runpy
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbtrain.cluster.hostfile import Hostfile, read_hostfile
from lbtrain.errors import RecipeError
from tools.scaling_report import arguments
from tools.scaling_report.launchers import LAUNCHERS, commands, run_together
from tools.scaling_report.report import Collective, Report, ReportError, Row, with_efficiency
from tools.scaling_report.timings import RankTimes, read_ranks, summarize

EXAMPLES = """\
weak and strong scaling on 8 to 256 GPUs, synthetic against real data, three times each:
  measure --hostfile hostfiles/32x8 --gpus 8,16,32,64,128,256 --mode weak,strong --data synthetic,real --repeats 3 \\
          --out runs/scaling recipes/resnet50.py data.root=/data/imagenet
this machine alone, two processes:
  measure --hostfile hostfiles/local --gpus 2 --out runs/local recipes/digits.py data.image_size=32
"""
_HERE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("--hostfile", required=True, help="which hosts, and how many GPUs on each (hostfiles/README.md)")
    parser.add_argument("--gpus", type=arguments.sizes, required=True, help="sizes, for example 8,16,32")
    parser.add_argument("--mode", type=arguments.one_of("weak", "strong"), default=["weak"], help="weak, strong or both (default weak)")
    parser.add_argument("--data", type=arguments.one_of("synthetic", "real"), default=["synthetic"], help="synthetic, real or both")
    parser.add_argument("--repeats", type=arguments.count, default=1, help="launches of each point (default 1)")
    parser.add_argument("--steps", type=arguments.count, default=30, help="steps timed in a launch (default 30)")
    parser.add_argument("--warmup", type=arguments.count, default=5, help="steps left out before them (default 5)")
    parser.add_argument("--per-gpu-batch", type=arguments.count, help="weak scaling: images a GPU (default: the recipe's bn_batch_size)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="deepspeed", help="default deepspeed")
    parser.add_argument("--timeout", type=arguments.count, default=600, help="seconds a launch may take (default 600)")
    parser.add_argument("--port", type=arguments.count, default=29500, help="first rendezvous port (default 29500)")
    parser.add_argument(
        "--collectives", action="store_true", help="also time all-reduces at every size above 1: `fit` and `predict` use them"
    )
    parser.add_argument("--resume", action="store_true", help="keep the points of --out that succeeded, launch the rest")
    parser.add_argument("--out", type=Path, required=True, help="folder for timings, logs and report.json")
    parser.add_argument("recipe", type=Path, help="a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")


@dataclass(frozen=True)
class Study:
    """What all points share."""

    options: argparse.Namespace
    hosts: Hostfile
    recipe: Any

    def row(self, gpus: int, mode: str, data: str) -> Row:
        """The row of a point before it is measured. Weak scaling keeps the images of a GPU, strong scaling those of a step."""
        per_gpu = self.options.per_gpu_batch or self.recipe.bn_batch_size
        batch = per_gpu * gpus if mode == "weak" else self.recipe.batch_size
        nodes = len(self.hosts.subset(gpus).names)
        return Row(gpus=gpus, nodes=nodes, mode=mode, data=data, global_batch=batch, per_gpu_batch=batch // gpus)

    def launch(self, name: str, gpus: int, words: list[str]) -> tuple[Path, str]:
        """Run `words` on `gpus` GPUs; (the folder of what it wrote, "ok" or why not). A point that succeeded before is kept."""
        folder = self.options.out.resolve() / "points" / name
        done = folder / "status"
        if done.exists() and done.read_text() == "ok":
            return folder, "ok"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        hosts = self.hosts.subset(gpus)
        (folder / "hostfile").write_text(hosts.text())
        words = [word.replace("{folder}", str(folder)) for word in words]
        # A port of its own for each launch: the last one's may still be closing.
        port = self.options.port + len(list(folder.parent.iterdir())) % 1000
        launched = commands(self.options.launcher, hosts, words, hostfile=folder / "hostfile", port=port, timeout_s=self.options.timeout)
        status = run_together(launched, folder / "log.txt", timeout_s=self.options.timeout)
        if status != "ok":
            status = f"{status}: {_last_words(folder / 'log.txt')}"
        done.write_text(status)
        print(f"{name}: {status}", flush=True)
        return folder, status

    def time_point(self, row: Row) -> tuple[Row, dict[str, Any] | None]:
        """The measured row, and the gradient buckets that a profiled step found."""
        name = f"{row.mode}-{row.data}-{row.gpus}"
        runs: list[list[RankTimes]] = []
        for run in ("no-exchange", *(f"repeat{number}" for number in range(self.options.repeats))):
            exchange = "no-exchange" if run == "no-exchange" else "exchange"
            folder, status = self.launch(f"{name}-{run}", row.gpus, self._words(row, exchange))
            if status != "ok":
                return dataclasses.replace(row, status=status), None
            try:
                runs.append(read_ranks(folder, row.gpus, warmup=self.options.warmup))
            except ReportError as error:
                return dataclasses.replace(row, status=str(error)), None
        return summarize(dataclasses.replace(row, accumulation=1), runs[1:], runs[0]), runs[0][0].buckets

    def _words(self, row: Row, exchange: str) -> list[str]:
        # The learning rate has no say in the speed, but a rate that is scaled up could end the run with a NaN.
        settings = [f"batch_size={row.global_batch}", f"micro_batch_size={row.per_gpu_batch}", "schedule.rule=none", "log_every=1000000it"]
        settings += ["run_dir={folder}/run", "resume=never"]
        settings += ["data.name=synthetic"] if row.data == "synthetic" else []
        # The interval to the step before is what is timed: one step more than asked for.
        steps = self.options.warmup + self.options.steps + 1
        script = str(_HERE / "timed_run.py")
        return [script, "{folder}", str(steps), exchange, str(self.options.recipe.resolve()), *self.options.overrides, *settings]

    def sweep(self, gpus: int) -> list[Collective]:
        folder, status = self.launch(f"collectives-{gpus}", gpus, [str(_HERE / "timed_collectives.py"), "{folder}"])
        if status != "ok":
            return []
        nodes = len(self.hosts.subset(gpus).names)
        return [Collective(gpus=gpus, nodes=nodes, **each) for each in json.loads((folder / "collectives.json").read_text())]


def run(options: argparse.Namespace) -> int:
    if options.out.exists() and any(options.out.iterdir()) and not options.resume:
        raise ReportError(f"{options.out} holds something already: --resume goes on with it, another --out starts anew")
    study = Study(options, read_hostfile(options.hostfile), _load_recipe(options.recipe, options.overrides))
    points = [study.row(gpus, mode, data) for mode in options.mode for data in options.data for gpus in options.gpus]
    report = Report(provenance=_provenance(options))
    if options.collectives:
        report.collectives = [each for gpus in options.gpus if gpus > 1 for each in study.sweep(gpus)]
    for point in points:
        row, buckets = study.time_point(point)
        report.rows = with_efficiency([*report.rows, row])
        if buckets:
            report.provenance.setdefault("buckets", buckets)
        # Written after every point, so that a study that is broken off has a report.
        report.save(options.out / "report.json")
    failed = [row for row in report.rows if row.status != "ok"]
    print(f"{len(report.rows) - len(failed)} of {len(report.rows)} points measured: {options.out / 'report.json'}")
    return 0


def _load_recipe(path: Path, overrides: list[str]) -> Any:
    if not path.is_file():
        raise RecipeError(f"{path} is not a file: name a recipe, such as recipes/resnet50.py")
    sys.path.insert(0, str(path.parent))
    recipe = runpy.run_path(str(path)).get("recipe")
    if recipe is None:
        raise RecipeError(f"{path} defines no `recipe`; recipes/ has examples")
    return recipe.with_overrides(overrides)


def _provenance(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    asked = {name: getattr(options, name) for name in ("overrides", "launcher", "steps", "repeats")}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"recipe": str(options.recipe), **asked, "host": socket.gethostname(), "device": device, **versions}


def _last_words(log: Path) -> str:
    """The line of a log that most likely says what went wrong."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error:" in line]
    return (errors or lines or ["no output"])[-1][:300]
