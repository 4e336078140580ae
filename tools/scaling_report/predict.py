"""Predict images/s, efficiency and where the lost efficiency goes, at cluster sizes that were not measured.

The prediction starts from one measured throughput, given by flags or read from a report (--run), and is exact
there. Every further measured size narrows the interval at all others.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from lbtrain.errors import RecipeError

from . import arguments
from .model.baseline import Baseline, WhatIf, parse_what_if
from .model.comm import ALGORITHMS
from .model.from_run import Named, read_baseline
from .model.layers import BYTES, VALUE_BYTES
from .model.prediction import Prediction
from .model.presets import GPUS, NETWORKS, NODE_LINKS
from .model.question import Question
from .report import Report, check_out

# Of measured sizes from what is modelled, in usual deviations.
FAR = 3.0
# By how much convolutions may exceed the data sheet's arithmetic, counted as multiply-adds.
WINOGRAD = 1.5
EXAMPLES = """\
a buyer's question, no run needed (380 images/s is the throughput of all 8 GPUs together):
  predict --model resnet50 --images-per-sec 380 --measured-on 8 --micro-batch 128 --gpus-per-node 8 \\
          --network ib-edr-100 --links 1 --gpus 8,32,256
the same from two measured sizes, which fix what software and network cost:
  predict ... --images-per-sec 8=380,16=735
the same cluster with twice the network, with ZeRO-1, or in other arithmetic:
  predict ... --what-if bandwidth=2x
  predict ... --what-if zero=1,accumulation=2
  predict ... --gpu v100 --what-if dtype=fp16
the same batch on more GPUs:
  predict ... --mode strong
a detector, and a model that neither timm nor torchvision has:
  predict --model "Mask R-CNN" ...
  predict --gradient-bytes 178MB ...
from a measurement, with its own all-reduce sweep or a named network:
  predict --run runs/scaling/report.json --gpus 8,64,256 [--network roce-100]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add, count = parser.add_argument, arguments.count
    sizes = [8, 16, 32, 64, 128, 256]
    add("--gpus", type=arguments.sizes, default=sizes, help="cluster sizes to predict (default 8 ... 256)")
    add(
        "--run",
        type=Path,
        help="a report by `measure` or `ingest`, or a CSV table: its throughput, and bytes, jitter "
        "and all-reduce times where it has them",
    )
    add("--model", help="a classifier of timm or a detector of torchvision; in any spelling")
    add(
        "--images-per-sec",
        type=arguments.rates,
        metavar="RATE|GPUS=RATE,...",
        help="measured throughput of all --measured-on GPUs together, or of several sizes: 8=2800,16=5300",
    )
    add("--measured-on", type=count, help="how many GPUs gave --images-per-sec, where that is one number")
    add("--micro-batch", type=count, help="images a GPU takes at once")
    add("--gpus-per-node", type=count, help="default 8, or what a --run shows")
    for flag, presets, words in (
        ("--network", NETWORKS, "between nodes, by the rate of one port (default ib-edr-100)"),
        ("--gpu", GPUS, "sets the link inside a node, clocks and arithmetic"),
        ("--node-link", NODE_LINKS, "inside a node (default: the GPU's own, or nvlink2)"),
    ):
        names = arguments.preset_name(presets)
        add(flag, type=names, metavar="NAME", help=f"{words}: {', '.join(presets)}")
    add(
        "--links",
        type=count,
        default=1,
        help="network ports of a node: 8 where each GPU has its own rail (default 1)",
    )
    add("--dtype", choices=BYTES, help="what is computed in (default fp32)")
    add(
        "--gradient-bytes",
        type=arguments.gradient_bytes,
        default=4,
        metavar="BYTES",
        help="bytes of an exchanged value: 4 (default, also under autocast), or 2 for half-precision "
        "gradients; or the size of all gradients (178MB), for a model that --model does not know",
    )
    add(
        "--mode",
        choices=("weak", "strong"),
        default="weak",
        help="strong: a step keeps its images, however many GPUs",
    )
    add("--zero", type=int, choices=(0, 1, 2, 3), default=0, help="ZeRO stage (default 0)")
    add(
        "--algorithm",
        choices=ALGORITHMS,
        default="auto",
        help="of the all-reduce between nodes (default auto)",
    )
    add("--no-overlap", action="store_true", help="the exchange begins when backward has ended")
    add("--cpu-cores", type=count, help="cores of a node that decode JPEG; leave out if data is no limit")
    add("--what-if", type=parse_what_if, default=WhatIf(), metavar="CHANGES", help=WhatIf.__doc__)
    add("--json", action="store_true", help="print JSON")
    add("--out", type=Path, help="also write a report that `render` and `advise` read")


def run(options: argparse.Namespace) -> int:
    if options.run:
        if options.out:
            check_out(options.out, [options.run])
        baseline = _of_run(options)
        inputs = baseline.inputs() | {"mode": options.mode}
    else:
        question = _question(options)
        baseline, inputs = question.baseline(), dataclasses.asdict(question)
    inputs |= options.what_if.inputs()
    predictions = baseline.predict(options.gpus, what_if=options.what_if, mode=options.mode)
    if options.out:
        Report(predictions=predictions, provenance={"predicted_from": inputs}).save(options.out)
    if options.json:
        rows = [dataclasses.asdict(each) for each in predictions]
        print(json.dumps({"inputs": inputs, "predictions": rows}, indent=1))
        return 0
    _print_table(predictions, baseline)
    for line in _narrowed(predictions, baseline, options):
        print(line)
    for line in _impossible(baseline):
        print(line)
    if note := options.what_if.note(baseline.gpu, baseline.job.peak_tflops):
        print(f"note: {note}")
    return 0


# Flags of a question that a run answers itself, with their defaults.
_SAID_BY_A_RUN = {
    "images_per_sec": None, "measured_on": None, "node_link": None,
    "zero": 0, "algorithm": "auto", "no_overlap": False, "cpu_cores": None,
}  # fmt: skip


def _of_run(options: argparse.Namespace) -> Baseline:
    beside = [name for name, default in _SAID_BY_A_RUN.items() if getattr(options, name) != default]
    if beside:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in beside)
        raise RecipeError(
            f"--run starts from what its rows say, so that {flags} would change nothing: leave it out; "
            "--what-if asks about another job or network"
        )
    names = [each.name for each in dataclasses.fields(Named)]
    return read_baseline(options.run, Named(**{name: getattr(options, name) for name in names}))


def _question(options: argparse.Namespace) -> Question:
    total = options.gradient_bytes > VALUE_BYTES
    rates = options.images_per_sec or {}
    needed = {
        "--model": options.model or total,
        "--images-per-sec": rates,
        "--measured-on": options.measured_on or (rates and None not in rates),
        "--micro-batch": options.micro_batch,
    }
    if missing := [flag for flag, given in needed.items() if not given]:
        raise RecipeError(
            f"without --run, {', '.join(missing)} must be given: a prediction starts from the "
            "throughput of one model"
        )
    if options.measured_on and None not in rates:
        raise RecipeError("--images-per-sec names its sizes already: leave out --measured-on")
    (first, rate), *more = sorted((gpus or options.measured_on, rate) for gpus, rate in rates.items())
    same = "model micro_batch links gpu node_link gradient_bytes algorithm"
    return Question(
        **{name: getattr(options, name) for name in f"{same} cpu_cores mode zero".split()},
        images_per_sec=rate,
        measured_on=first,
        more_rates=tuple(more),
        gpus_per_node=options.gpus_per_node or 8,
        network=options.network or "ib-edr-100",
        dtype=options.dtype or "fp32",
        overlaps=not options.no_overlap,
    )


def _print_table(predictions: list[Prediction], baseline: Baseline) -> None:
    for gpus, rate in baseline.rates:
        print(f"predicted from {_rate(rate)} images/s on {gpus} GPUs ({rate / gpus:,.1f} a GPU)")
    causes = list(predictions[0].shares)
    print(f"{'':45}share of the step, %")
    names = "".join(f"{cause[:13]:>14}" for cause in causes)
    print(f"{'GPUs':>6}{'nodes':>7}{'images/s':>11}  efficiency  90% interval {names}")
    for each in predictions:
        interval = f"{each.efficiency_low:.3f} - {each.efficiency_high:.3f}"
        shares = "".join(f"{100 * each.shares[cause]:14.1f}" for cause in causes)
        rates = f"{_rate(each.images_per_s):>11}{each.efficiency:12.3f}"
        print(f"{each.gpus:6}{each.nodes:7}{rates} {interval:>14}{shares}")


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.3g}"


def _narrowed(
    predictions: list[Prediction], baseline: Baseline, options: argparse.Namespace
) -> Iterator[str]:
    """What further measured sizes did for the interval at the largest size that was not measured."""
    measured = dict(baseline.rates)
    others = [each for each in predictions if each.gpus not in measured]
    if len(measured) == 1 or not others:
        return
    alone = dataclasses.replace(baseline, rates=(min(baseline.rates),))
    (before,) = alone.predict([others[-1].gpus], what_if=options.what_if, mode=options.mode)
    first, last = (100 * (each.efficiency_high - each.efficiency_low) for each in (before, others[-1]))
    verb = "hardly change" if abs(last - first) < 0.1 else "narrow" if last < first else "widen"
    yield (
        f"{len(measured)} measured sizes {verb} the interval at {others[-1].gpus} GPUs from {first:.1f} to "
        f"{last:.1f} points"
    )
    if (spread := baseline.spread()) > FAR:
        yield (
            f"note: the measured sizes are {spread:.0f} times as far from what the flags let expect as "
            "usual. Check that each rate is of all GPUs together and of one job, --network and --dtype"
        )


def _impossible(baseline: Baseline) -> Iterator[str]:
    """Throughputs that the GPU cannot compute, or the links cannot carry: of another unit, type or job."""
    peak, (gpus, rate) = baseline.job.peak_tflops, min(baseline.rates)
    work = baseline.job.work or 0.0  # not known: nothing to say
    needed = 3 * 2 * work * rate / gpus / 1e12  # forward, and twice that backward
    if peak and needed > WINOGRAD * peak:
        yield (
            f"note: {rate / gpus:,.0f} images/s a GPU are {needed:,.0f} TFLOP/s, more than {baseline.gpu}'s "
            f"{peak:,.0f} in this precision: check it, and that {_rate(rate)} images/s are of {gpus} GPUs "
            "together"
        )
    if baseline.too_slow():
        yield (
            f"note: at this throughput {gpus} GPUs exchange more than the links named can carry, so "
            "these are taken to be as fast as they were seen to be. Check --network, --links and "
            "--gradient-bytes"
        )
