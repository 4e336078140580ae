"""One HTML page with its charts inside, so that it can be sent as one file: nothing is fetched from anywhere.

It can be read on a telephone (charts stand below each other, tables scroll in a box of their own), light or
dark as the reader's device is set, and aloud (every chart says what is to be seen in it).
"""

import html
from collections.abc import Mapping, Sequence

from .charts import Chart, as_svg
from .tables import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #5c5c5c; --line: #ddd;
  --head: #f3f3f3; --predicted: #fff6e3; --failed: #fdeaea }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #161618; --faint: #a6a6a6;
  --line: #3a3a3e; --head: #242428; --predicted: #352b15; --failed: #3d1f20 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin-top: 2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1rem }
figure { margin: 0; min-width: 0 } svg { display: block; width: 100%; height: auto }
.table { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .3rem .6rem; border-bottom: 1px solid var(--line); font-size: .9rem; overflow-wrap: normal }
td { white-space: nowrap } th { background: var(--head); vertical-align: bottom } .l { text-align: left }
.r { text-align: right } tr.predicted td { background: var(--predicted) }
tr.failed td { background: var(--failed) } td.none { color: var(--faint); font-style: italic }
i { display: inline-block; width: .8em; height: .8em } small, dt { color: var(--faint) } dd { margin: 0 }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr); gap: .1rem 1rem }
"""


def page(title: str, *parts: str) -> str:
    """The page: its title as a heading, and below it the parts, in HTML."""
    heading = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{_STYLE}</style></head><body>\n<h1>{heading}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def report(
    title: str, lines: Sequence[str], charts: Sequence[Chart], tables: Sequence[Table], origin: str
) -> str:
    """The page of most tools: what was found, its charts and tables, and where the numbers come from."""
    shown = (table.html() for table in tables)
    return page(title, bullets(lines), pictures(charts), *shown, small_print(origin))


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def bullets(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def pictures(charts: Sequence[Chart]) -> str:
    """Beside each other where there is room."""
    figures = "".join(f"<figure>{as_svg(chart)}</figure>" for chart in charts)
    return f'<div class="charts">{figures}</div>'


def small_print(text: str) -> str:
    """Where the numbers come from."""
    return f"<p><small>{html.escape(text)}</small></p>"


def pairs(values: Mapping[str, str]) -> str:
    """Names and what they are, in two columns."""
    items = (f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in values.items())
    return f"<dl>{''.join(items)}</dl>"
