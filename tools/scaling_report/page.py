"""One self-contained HTML page of a report: no script, no font, no picture is fetched from anywhere."""

from collections.abc import Callable, Sequence

from ..kit import pages
from ..kit.tables import NOT_MEASURED, Table
from .chart import charts_of
from .model.prediction import Prediction
from .report import Report, Row


def page(report: Report) -> str:
    measured, predicted = len(report.good_rows()), len(report.predictions)
    parts = [
        pages.paragraph(
            f"{measured} measured and {predicted} predicted cluster sizes. Measured points are solid lines "
            "and white rows; predictions are the dashed line in its band and the shaded rows, with their 90% "
            "interval."
        ),
        pages.pictures(charts_of(report)),
        *[table.html() for table in _measured_tables(report.rows)],
    ]
    if not report.rows:
        parts += [pages.heading("Measured"), pages.paragraph(NOT_MEASURED)]
    if report.predictions:
        parts.append(_predicted_table(report.predictions).html())
    origin = {key: _format(value) or "none" for key, value in report.provenance.items()}
    source = pages.pairs(origin) if origin else pages.paragraph("not recorded")
    parts += [pages.heading("Where this comes from"), source]
    return pages.page("How training scales", *parts)


def _per_gpu(row: Row) -> str | None:
    text = number(row.images_per_s_gpu, 1)
    if text and row.images_per_s_gpu_low is not None and row.images_per_s_gpu_high is not None:
        text += f" ({row.images_per_s_gpu_low:,.1f} to {row.images_per_s_gpu_high:,.1f})"
    return text


def _baseline(row: Row) -> str | None:
    return None if row.baseline_gpus is None else f"{row.baseline_gpus} GPU{'s' * (row.baseline_gpus > 1)}"


def _slowest(row: Row) -> str | None:
    return None if row.slowest_rank is None else f"{row.slowest_rank} on {row.slowest_host}"


def _whole(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


Columns = dict[str, Callable[[Row], str | None]]
_POINT: Columns = {
    "GPUs": lambda row: _whole(row.gpus),
    "nodes": lambda row: _whole(row.nodes),
    "kind": lambda row: row.kind_label,
}
RATES: Columns = _POINT | {
    "images a GPU": lambda row: _whole(row.per_gpu_batch),
    "global batch": lambda row: _whole(row.global_batch),
    "accumulation": lambda row: _whole(row.accumulation),
    "images/s": lambda row: rate(row.images_per_s),
    "images/s a GPU (95%)": _per_gpu,
    "speed-up": lambda row: number(row.speed_up, 2),
    "efficiency": lambda row: percent(row.efficiency),
    "baseline": _baseline,
    "MFU": lambda row: percent(row.mfu),
    "status": lambda row: row.status,
}
TIMES: Columns = _POINT | {
    "step p50 / p95": lambda row: _joined(milliseconds(row.step_p50_s), milliseconds(row.step_p95_s)),
    "compute": lambda row: milliseconds(row.compute_s),
    "exposed exchange": lambda row: milliseconds(row.exposed_communication_s),
    "overlap": lambda row: percent(row.overlap),
    "data wait": lambda row: milliseconds(row.data_wait_s),
    "in the loader": lambda row: milliseconds(row.loader_wait_s),
    "optimizer": lambda row: milliseconds(row.optimizer_s),
    "slowest rank": _slowest,
    "spread over ranks": lambda row: percent(row.rank_spread),
    "waiting for the slowest": lambda row: milliseconds(row.straggler_wait_s),
}


def _measured_tables(rows: Sequence[Row]) -> list[Table]:
    """What was reached, and where the time went."""
    kinds = ["failed" if row.status != "ok" else "" for row in rows]
    return [
        Table(list(columns), [[show(row) for show in columns.values()] for row in rows], title, kinds=kinds)
        for title, columns in (("Measured", RATES), ("Where the time goes, ms a step", TIMES))
        if rows
    ]


def _predicted_table(predictions: Sequence[Prediction]) -> Table:
    causes = list(predictions[0].shares)
    rows = [
        [
            str(each.gpus),
            str(each.nodes),
            each.mode,
            f"{rate(each.images_per_s)} ({rate(each.images_per_s_low)} to {rate(each.images_per_s_high)})",
            interval(each),
            *(percent(each.shares.get(cause)) for cause in causes),
        ]
        for each in predictions
    ]
    head = ["GPUs", "nodes", "mode", "images/s (90%)", "efficiency (90%)", *causes]
    return Table(head, rows, "Predicted", kinds=["predicted"] * len(rows))


def interval(each: Prediction) -> str:
    """The efficiency with its interval, in percent."""
    low, high = 100 * each.efficiency_low, 100 * each.efficiency_high
    return f"{100 * each.efficiency:.1f}% ({low:.1f} to {high:.1f})"


def _format(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_format(inner)}" for key, inner in value.items() if inner is not None)
    return ", ".join(map(_format, value)) if isinstance(value, list) else str(value)


def rate(value: float | None) -> str | None:
    """images/s: one decimal where there are few."""
    return number(value, 0 if (value or 0) >= 100 else 1)


def number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}%".replace("-0.0%", "0.0%")


def milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{1000 * value:,.1f}"


def _joined(first: str | None, second: str | None) -> str | None:
    return None if first is None or second is None else f"{first} / {second}"
