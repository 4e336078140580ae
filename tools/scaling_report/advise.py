"""What a target costs: minutes, GPU hours, money and energy against GPUs and batch, and where doubling stops
paying.

Two curves meet. More GPUs compute more images/s (a prediction, or measured rows). A larger batch needs more
images for the same result: where a very small batch needs E, a batch B needs E (1 + B / critical batch). The
critical batch comes from a number, from the gradient noise scale that `lbtrain landscape` measured in a run,
from the steps of a sweep, or from MLPerf's reference convergence points.

The knee is the last size that saved at least 10% of the time for each doubling, against the last such size
before it: where the step to a second node does not pay, larger sizes may.
Intervals join those of the prediction and of the critical batch.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes

from ..kit.charts import Chart, look, marker, save, tidy
from ..kit.pages import page, paragraph, pictures
from ..kit.tables import Table
from . import arguments
from .chart import mark_sizes
from .model.cost import (
    Option,
    Rate,
    gpu_hours_text,
    hours_text,
    knee,
    options_for,
    sentence,
)
from .model.epochs import Critical, benchmarks
from .model.from_run import gpu_of
from .model.prediction import Prediction
from .model.presets import GPUS, preset
from .report import Report, ReportError, Row, load

EXAMPLES = """\
90 epochs of ImageNet at batch 256 reach the target, and the critical batch is 8,000 images:
  advise prediction.json --critical-batch 8000 --examples 115e6 --at-batch 256
the critical batch as `lbtrain landscape batch runs/resnet50` found it:
  advise prediction.json --noise-scale runs/resnet50 --examples 115e6
a table of two columns, gpus and images_per_s, which were measured with 64 images a GPU:
  advise rates.csv --mlperf resnet --micro-batch 64
ResNet-50 to 75.9% as in MLPerf, two batches a GPU side by side, with money, energy and a picture:
  predict ... --out p64.json; predict ... --what-if micro_batch=256 --out p256.json
  advise p64.json p256.json --mlperf resnet --price 2.5/gpu-hour --out runs/decision
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("reports", nargs="+", type=Path, help="reports with predictions (predict --out) or measured rows")
    critical = parser.add_mutually_exclusive_group(required=True)
    critical.add_argument(
        "--critical-batch", type=arguments.positive, help="images; about the gradient noise scale"
    )
    critical.add_argument(
        "--noise-scale",
        type=Path,
        metavar="RUN_DIR",
        help="a run that `lbtrain landscape` measured, or its batch.json",
    )
    critical.add_argument(
        "--sweep", type=Path, metavar="FOLDER", help="the steps to one target at several batches: steps.json"
    )
    names = benchmarks()
    critical.add_argument("--mlperf", choices=names, help=f"MLPerf's convergence points: {', '.join(names)}")
    add("--examples", type=arguments.positive, help="images to the target at --at-batch (epochs x data set)")
    add(
        "--at-batch",
        type=arguments.count,
        default=256,
        help="global batch that --examples was counted at (default 256)",
    )
    add(
        "--micro-batch",
        type=arguments.count,
        help="of a table or a log: images a GPU takes at once",
    )
    add("--gpus-per-node", type=arguments.count, help="of a table without a column nodes (default 8)")
    add("--price", type=arguments.price, metavar="PRICE", help="for example 2.5/gpu-hour, or 32/node-hour")
    add(
        "--gpu",
        type=arguments.preset_name(GPUS),
        metavar="NAME",
        help="whose data sheet has the power (default: each report's own)",
    )
    add("--json", action="store_true", help="print JSON")
    add("--out", type=Path, help="a folder for decision.json, decision.md, decision.png and decision.html")


def run(options: argparse.Namespace) -> int:
    critical = _critical(options)
    if options.gpus_per_node and not any(path.suffix == ".csv" for path in options.reports):
        raise ReportError("--gpus-per-node is of a table (.csv); the reports say it themselves: leave it out")
    reports = {path: load(path, gpus_per_node=options.gpus_per_node) for path in options.reports}
    rates, notes = _rates(reports, options.micro_batch, options.gpu)
    found, knees = _decide(rates, critical, options)
    found = [_priced(each, rates, options.price) for each in found]
    beyond = critical.beyond(each.batch_size for each in found)
    advice = " ".join(filter(None, [sentence(found, knees), beyond, *notes]))
    answer = {
        "critical": asdict(critical),
        "options": list(map(asdict, found)),
        "knee": knee(found).gpus,
        "advice": advice,
    }
    if options.out:
        _write(options.out, found, critical, advice, answer)
        if not options.json:
            print(options.out / "decision.html")
    print(json.dumps(answer, indent=1) if options.json else _format(found, critical, advice))
    return 0


def _critical(options: argparse.Namespace) -> Critical:
    if options.critical_batch:
        return Critical.given(options.critical_batch)
    if options.noise_scale:
        return Critical.read(options.noise_scale)
    return Critical.of_sweep(options.sweep) if options.sweep else Critical.of_mlperf(options.mlperf)


def _decide(
    rates: Sequence[Rate], critical: Critical, options: argparse.Namespace
) -> tuple[list[Option], list[Option]]:
    """The options with the interval of their hours, and the knees at the bounds of the critical batch."""
    curves = [(critical.batch, critical.min_examples), *critical.bounds()]
    middle, *bounds = (
        options_for(rates, critical_batch=batch, least_examples=_least(options, batch, fewest))
        for batch, fewest in curves
    )
    intervals = {(each.gpus, each.batch_size): each for each in rates}
    found = []
    for several in zip(middle, *bounds, strict=True):
        option, hours = several[0], [each.hours for each in several]
        rate = intervals[option.gpus, option.batch_size]
        slow, fast = rate.interval or (rate.images_per_s, rate.images_per_s)
        low, high = min(hours) * rate.images_per_s / fast, max(hours) * rate.images_per_s / slow
        found.append(dataclasses.replace(option, hours_low=low, hours_high=high))
    return found, [knee(each) for each in bounds]


def _priced(option: Option, rates: Sequence[Rate], price: tuple[float, str] | None) -> Option:
    point, money = (option.gpus, option.batch_size), None
    rate = next(each for each in rates if (each.gpus, each.batch_size) == point)
    if price:
        value, unit = price
        money = value * (option.gpu_hours if unit == "gpu" else option.hours * rate.nodes)
    energy = option.gpu_hours * preset(rate.gpu, GPUS).watts / 1000 if rate.gpu else None
    return dataclasses.replace(option, money=money, energy_kwh=energy)


def _gpu(report: Report) -> str | None:
    """The preset of the GPU that was asked about or measured on, where the report says it."""
    return report.provenance.get("predicted_from", {}).get("gpu") or gpu_of(report)


def _know_energy(options: Sequence[Option]) -> bool:
    return any(each.energy_kwh is not None for each in options)


def _table(options: Sequence[Option]) -> Table:
    best = knee(options)
    shown = {
        "GPUs": lambda each: f"{each.gpus}",
        "batch": lambda each: f"{each.batch_size:,}",
        "time": lambda each: hours_text(each.hours),
        "90% interval": lambda each: f"{hours_text(each.hours_low)} to {hours_text(each.hours_high)}",
        "GPU-hours": lambda each: gpu_hours_text(each.gpu_hours),
    }
    if options[0].money is not None:
        shown["money"] = lambda each: f"{each.money:,.2f}"
    if _know_energy(options):
        shown["kWh of the GPUs"] = lambda each: gpu_hours_text(each.energy_kwh)
    rows = [[show(each) for show in shown.values()] + ["<- the knee" * (each == best)] for each in options]
    return Table([*shown, ""], rows, align="r" * len(shown) + "l", title="Cost to the target")


def _format(options: Sequence[Option], critical: Critical, advice: str) -> str:
    return "\n".join([critical.description, _table(options).text(), advice])


def _write(out: Path, options: Sequence[Option], critical: Critical, advice: str, answer: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "decision.json").write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    text = f"{critical.description}\n\n{_table(options).markdown()}\n\n{advice}\n"
    (out / "decision.md").write_text(text, encoding="utf-8")
    charts = _charts(options)
    save(charts, out / "decision.png")
    said = [paragraph(advice), paragraph(critical.description), pictures(charts), _table(options).html()]
    (out / "decision.html").write_text(page("What the target costs", *said), encoding="utf-8")


def _charts(options: Sequence[Option]) -> list[Chart]:
    quantities = {"hours": ("minutes to the target", 60.0), "gpu_hours": ("GPU-hours", 1.0)}
    if options[0].money is not None:
        quantities["money"] = ("money", 1.0)
    if _know_energy(options):
        quantities["energy_kwh"] = ("kWh of the GPUs", 1.0)

    def chart(name: str, title: str, scale: float) -> Chart:
        def draw(axes: Axes) -> None:
            _draw(axes, options, name, scale)

        curves = "one curve for each number of images a GPU, or a step under strong scaling"
        return Chart(title, f"{title} against GPUs, {curves}", draw)

    return [chart(name, *rest) for name, rest in quantities.items()]


def _draw(axes: Axes, options: Sequence[Option], name: str, scale: float) -> None:
    best = knee(options)
    by_images: dict[tuple[str, int], list[Option]] = {}
    for each in options:
        if getattr(each, name) is not None:
            strong = each.mode == "strong"
            images = each.batch_size if strong else each.batch_size // each.gpus
            by_images.setdefault(("a step" if strong else "a GPU", images), []).append(each)
    for number, ((of, images), own) in enumerate(sorted(by_images.items())):
        _draw_curve(axes, own, name, scale, number, f"{images:,} {of}")
    axes.axvline(best.gpus, color="#888888", linestyle=":", label=f"knee: {best.gpus} GPUs")
    axes.set(xscale="log", yscale="log", xlabel="GPUs")
    tidy(axes)
    mark_sizes(axes, {each.gpus for each in options})


def _draw_curve(axes: Axes, own: Sequence[Option], name: str, scale: float, number: int, label: str) -> None:
    style, sizes = look(number), [each.gpus for each in own]
    middle = [scale * getattr(each, name) for each in own]
    axes.plot(sizes, middle, marker=marker(number), label=label, **style)
    # Money and energy are in proportion to the time, and so are their intervals.
    low, high = (
        [
            value * (getattr(each, f"hours_{end}") or 0.0) / each.hours
            for value, each in zip(middle, own, strict=True)
        ]
        for end in ("low", "high")
    )
    if len(own) > 1:
        axes.fill_between(sizes, low, high, alpha=0.2, color=style["color"], linewidth=0)
    else:  # a band over one point has no area
        axes.vlines(sizes, low, high, alpha=0.5, color=style["color"])


def _least(options: argparse.Namespace, batch: float, fewest: float | None) -> float:
    """Images to the target at a very small batch, if the critical one is `batch`."""
    if options.examples:
        return float(options.examples) / (1 + options.at_batch / batch)
    if fewest:
        return fewest
    raise ReportError(
        "--examples must be given: how many images (epochs x data set) reach the target at --at-batch"
    )


def _check(report: Report, path: Path, micro_batch: int | None) -> None:
    """Raises ReportError where `micro_batch` contradicts a batch that the report states."""
    points: list[Prediction | Row] = [*report.good_rows(), *report.predictions]
    for each in points:
        named = _named_batch(each, micro_batch)
        if named and each.global_batch not in (None, named):
            raise ReportError(
                f"{path} says that {each.gpus} GPUs take {each.global_batch:,} images a step, not {named:,}: "
                "leave out --micro-batch; `predict --what-if` asks about another job"
            )


def _batch_of(each: Prediction | Row, micro_batch: int | None) -> int:
    """The images of a step: the report's own, or else those of `micro_batch`; 0 where neither is known."""
    return each.global_batch or _named_batch(each, micro_batch)


def _named_batch(each: Prediction | Row, micro_batch: int | None) -> int:
    micro_steps = (each.accumulation or 1) if isinstance(each, Row) else 1
    return each.gpus * (micro_batch or 0) * micro_steps


def _rates(
    reports: Mapping[Path, Report], micro_batch: int | None, gpu: str | None
) -> tuple[list[Rate], list[str]]:
    """One for each size and batch of all reports, and what the reader must know of them. A measured point
    stands before a predicted one; of those that differ in something else the fastest counts, and real data
    before synthetic ones, which no training reads. Without `gpu` each has the GPU that its report says.
    """
    predictions: list[tuple[Prediction, str]] = []
    rows: list[tuple[Row, str]] = []
    for path, report in reports.items():
        _check(report, path, micro_batch)
        modes = {each.mode for each in report.predictions}
        own = [
            row
            for row in report.good_rows()
            if _batch_of(row, micro_batch) and (not modes or row.mode in modes)
        ]
        if not (own or report.predictions):
            raise ReportError(
                f"{path} holds no images/s with a batch size: give a report by `predict --out` or `measure`"
            )
        device = gpu or _gpu(report) or ""
        predictions += [(each, device) for each in report.predictions if (each, device) not in predictions]
        rows += [(row, device) for row in own if (row, device) not in rows]
    predictions.sort(key=lambda each: (each[0].images_per_s, each[1]))
    rows.sort(key=lambda each: (each[0].data != "synthetic", each[0].images_per_s, each[1]))
    predicted = {(each.gpus, _batch_of(each, micro_batch)): (each, device) for each, device in predictions}
    measured = {(row.gpus, _batch_of(row, micro_batch)): (row, device) for row, device in rows}
    found = {
        (gpus, batch): Rate(
            gpus=gpus,
            nodes=each.nodes,
            batch_size=batch,
            images_per_s=each.images_per_s,
            mode=each.mode,
            interval=(each.images_per_s_low, each.images_per_s_high),
            gpu=device or None,
        )
        for (gpus, batch), (each, device) in predicted.items()
    } | {
        (gpus, batch): Rate(
            gpus=gpus,
            nodes=row.nodes,
            batch_size=batch,
            images_per_s=row.images_per_s or 0.0,
            mode=row.mode,
            gpu=device or None,
        )
        for (gpus, batch), (row, device) in measured.items()
    }
    names, notes = " and ".join(map(str, reports)), []
    if len({each.gpu is None for each in found.values()}) == 2:
        notes.append(
            "Where a report does not say the GPU, the energy is left out: `predict --gpu` states it."
        )
    if len(predictions) > len(predicted):
        notes.append(f"Of several predictions of a size and batch in {names} the fastest counts.")
    if len(rows) > len(measured):
        kinds = "; ".join(sorted({row.kind_label for row, _ in measured.values()}))
        notes.append(
            f"Of several rows of a size and batch in {names} the fastest counts, with real data where there "
            f"are any: {kinds}."
        )
    return list(found.values()), notes
