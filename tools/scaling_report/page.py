"""One self-contained HTML page of a report: no script, no font, no picture is fetched from anywhere."""

import html
import io
from collections.abc import Callable, Sequence

from .chart import draw
from .model.step import Prediction
from .report import Report, Row

NOT_MEASURED = "not measured"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #1b1b1b; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .45rem; font-size: 14px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th { background: #f5f5f5; white-space: normal; vertical-align: bottom }
tr.predicted td { background: #fff6e3 } tr.failed td { background: #fdeaea } td.none { color: #767676; font-style: italic }
svg { width: 100%; height: auto } .note { color: #555 } dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem }
dt { color: #555 } dd { margin: 0; overflow-wrap: anywhere }
"""


def page(report: Report) -> str:
    title = "How training scales"
    measured, predicted = len(report.good_rows()), len(report.predictions)
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="note">{measured} measured and {predicted} predicted cluster sizes. Measured points are '
        "solid lines and white rows; "
        "predictions are the dashed line in its band and the shaded rows, with their 90% interval.</p>",
        _picture(report),
        "<h2>Measured</h2>",
        *(_measured_tables(report.rows) if report.rows else [f"<p>{NOT_MEASURED}</p>"]),
    ]
    if report.predictions:
        parts += ["<h2>Predicted</h2>", _predicted_table(report.predictions)]
    parts += ["<h2>Where this comes from</h2>", _provenance(report)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{_STYLE}</style>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


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
    "kind": lambda row: row.kind_words,
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
    "status": lambda row: row.status,
}
TIMES: Columns = _POINT | {
    "step p50 / p95": lambda row: _joined(milliseconds(row.step_p50_s), milliseconds(row.step_p95_s)),
    "compute": lambda row: milliseconds(row.compute_s),
    "exposed exchange": lambda row: milliseconds(row.exposed_communication_s),
    "data wait": lambda row: milliseconds(row.data_wait_s),
    "in the loader": lambda row: milliseconds(row.loader_wait_s),
    "optimizer": lambda row: milliseconds(row.optimizer_s),
    "slowest rank": _slowest,
    "spread over ranks": lambda row: percent(row.rank_spread),
    "waiting for the slowest": lambda row: milliseconds(row.straggler_wait_s),
}


def _measured_tables(rows: Sequence[Row]) -> list[str]:
    """What was reached, and where the time went."""
    kinds = ["failed" if row.status != "ok" else "" for row in rows]
    parts = []
    for title, columns in (("", RATES), ("<h2>Where the time goes, ms a step</h2>", TIMES)):
        cells = [
            (kind, [show(row) for show in columns.values()]) for kind, row in zip(kinds, rows, strict=True)
        ]
        parts += [title, table(list(columns), cells)]
    return parts


def _predicted_table(predictions: Sequence[Prediction]) -> str:
    causes = list(predictions[0].shares)
    rows: list[tuple[str, list[str | None]]] = []
    for each in predictions:
        rates = f"{rate(each.images_per_s)} ({rate(each.images_per_s_low)} to {rate(each.images_per_s_high)})"
        interval = (
            f"{100 * each.efficiency:.1f}% ({100 * each.efficiency_low:.1f} to "
            f"{100 * each.efficiency_high:.1f})"
        )
        shares = [percent(each.shares.get(cause)) for cause in causes]
        rows.append(("predicted", [str(each.gpus), str(each.nodes), each.mode, rates, interval, *shares]))
    return table(["GPUs", "nodes", "mode", "images/s (90%)", "efficiency (90%)", *causes], rows)


def table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str | None]]]) -> str:
    """Rows are (class, cells); a cell of None says that it was not measured."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f'<tr class="{kind}">{"".join(_cell(cell) for cell in cells)}</tr>' for kind, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str | None) -> str:
    return f'<td class="none">{NOT_MEASURED}</td>' if text is None else f"<td>{html.escape(text)}</td>"


def _picture(report: Report) -> str:
    buffer = io.StringIO()
    draw(report).savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]


def _provenance(report: Report) -> str:
    items = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(_words(value)) or 'none'}</dd>"
        for key, value in report.provenance.items()
    )
    return f"<dl>{items}</dl>" if items else "<p>not recorded</p>"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items() if inner is not None)
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


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
