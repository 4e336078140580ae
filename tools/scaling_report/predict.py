"""Predict images/s, efficiency and what eats the rest at sizes that were not measured."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from lbtrain.errors import RecipeError

from . import arguments
from .baseline import WhatIf, parse_what_if
from .from_run import read_baseline
from .model.comm import ALGORITHMS
from .model.layers import BYTES
from .model.step import Prediction
from .model.topology import GPUS, NETWORKS, NODE_LINKS
from .question import Question
from .report import Report

HELP = "efficiency at sizes that were not measured, from flags alone or from a measured run"
EXAMPLES = """\
a buyer's question, no run needed (380 images/s is the throughput of all 8 GPUs together):
  predict --model resnet50 --images-per-sec 380 --measured-on 8 --micro-batch 128 --gpus-per-node 8 \\
          --network ib-edr-100 --links 1 --gpus 8,32,256 --dtype fp16
the same cluster with twice the network, with ZeRO-1, or in another arithmetic (--gpu names whose):
  predict ... --what-if bandwidth=2x        predict ... --what-if zero=1,accumulation=2        predict ... --gpu v100 --what-if dtype=fp16
the same batch on more GPUs:
  predict ... --mode strong
from a measurement, with its own all-reduce sweep or a named network:
  predict --run runs/scaling/report.json --gpus 8,64,256 [--network roce-100]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--gpus",
        type=arguments.sizes,
        default=[8, 16, 32, 64, 128, 256],
        help="sizes to predict (default 8 ... 256)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="a report by `measure`: throughput, bytes, jitter and the all-reduce sweep come from it",
    )
    parser.add_argument("--model", help="any timm model")
    parser.add_argument(
        "--images-per-sec",
        type=arguments.positive,
        help="measured throughput of all --measured-on GPUs together",
    )
    parser.add_argument("--measured-on", type=arguments.count, help="how many GPUs gave --images-per-sec")
    parser.add_argument("--micro-batch", type=arguments.count, help="images a GPU takes at once")
    parser.add_argument("--gpus-per-node", type=arguments.count, default=8, help="default 8")
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        metavar="NAME",
        help=f"between nodes: {', '.join(NETWORKS)} (default ib-edr-100)",
    )
    parser.add_argument(
        "--links", type=arguments.count, default=1, help="network ports of a node (default 1)"
    )
    parser.add_argument(
        "--gpu",
        choices=GPUS,
        metavar="NAME",
        help=f"sets link inside a node, clocks, arithmetic: {', '.join(GPUS)}",
    )
    parser.add_argument(
        "--node-link",
        choices=NODE_LINKS,
        metavar="NAME",
        help=f"inside a node: {', '.join(NODE_LINKS)} (default nvlink2)",
    )
    parser.add_argument(
        "--dtype", choices=BYTES, default="fp32", help="of arithmetic and exchanged gradients (default fp32)"
    )
    parser.add_argument(
        "--mode",
        choices=("weak", "strong"),
        default="weak",
        help="strong: the step's images stay, however many GPUs",
    )
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=0, help="ZeRO stage (default 0)")
    parser.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default="auto",
        help="of the all-reduce between nodes (default auto)",
    )
    parser.add_argument(
        "--no-overlap", action="store_true", help="the exchange begins when backward has ended"
    )
    parser.add_argument(
        "--cpu-cores",
        type=arguments.count,
        help="cores of a node that decode JPEG; leave out for data that is no limit",
    )
    parser.add_argument(
        "--what-if", type=parse_what_if, default=WhatIf(), metavar="CHANGES", help=WhatIf.__doc__
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write a report that `render` and `advise` read")


def run(options: argparse.Namespace) -> int:
    predictions, asked = _from_run(options) if options.run else _from_flags(options)
    if options.out:
        Report(predictions=predictions, provenance={"predicted_from": asked}).save(options.out)
    if options.json:
        print(
            json.dumps(
                {"asked": asked, "predictions": [dataclasses.asdict(each) for each in predictions]}, indent=1
            )
        )
    else:
        _print_table(predictions, asked)
        if note := options.what_if.note(asked["gpu"]):
            print(f"note: {note}")
    return 0


def _from_flags(options: argparse.Namespace) -> tuple[list[Prediction], dict[str, Any]]:
    missing = [
        name
        for name in ("model", "images_per_sec", "measured_on", "micro_batch")
        if getattr(options, name) is None
    ]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise RecipeError(
            f"without --run, {flags} must be given: a prediction starts from one throughput of one model"
        )
    question = Question(
        **{
            name: getattr(options, name)
            for name in ("model", "images_per_sec", "measured_on", "micro_batch", "gpus_per_node")
        },
        **{
            name: getattr(options, name)
            for name in ("links", "gpu", "node_link", "dtype", "algorithm", "cpu_cores", "mode", "zero")
        },
        network=options.network or "ib-edr-100",
        overlaps=not options.no_overlap,
    )
    return question.answer(options.gpus, what_if=options.what_if), dataclasses.asdict(
        question
    ) | options.what_if.asked()


def _from_run(options: argparse.Namespace) -> tuple[list[Prediction], dict[str, Any]]:
    measured = read_baseline(options.run, network=options.network, links=options.links)
    predictions = measured.predict(options.gpus, what_if=options.what_if, mode=options.mode)
    return predictions, measured.asked() | {"mode": options.mode} | options.what_if.asked()


def _print_table(predictions: list[Prediction], asked: dict[str, Any]) -> None:
    per_gpu = asked["images_per_sec"] / asked["measured_on"]
    print(
        f"predicted from {asked['images_per_sec']:,.0f} images/s on {asked['measured_on']} GPUs "
        f"({per_gpu:,.1f} a GPU)"
    )
    causes = list(predictions[0].shares)
    print(f"{'':45}share of the step, %")
    print(
        f"{'GPUs':>6}{'nodes':>7}{'images/s':>11}  efficiency  90% interval "
        + "".join(f"{cause[:13]:>14}" for cause in causes)
    )
    for each in predictions:
        interval = f"{each.efficiency_low:.3f} - {each.efficiency_high:.3f}"
        shares = "".join(f"{100 * each.shares[cause]:14.1f}" for cause in causes)
        print(
            f"{each.gpus:6}{each.nodes:7}{each.images_per_s:11,.0f}{each.efficiency:12.3f} "
            f"{interval:>14}{shares}"
        )
