"""One HTML page with its pictures inside, so that it can be sent as one file."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:right;
font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}img{max-width:100%;height:auto;margin:1rem 0}
small{color:#666}div{overflow-x:auto}"""


@dataclass(frozen=True)
class Table:
    """A heading and text cells under column names; the first column is read as names, the others as numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        return f"<h2>{html.escape(self.title)}</h2><div><table><tr>{head}</tr>{body}</table></div>"


def page(
    title: str, lines: Sequence[str], pictures: Sequence[Path], tables: Sequence[Table], origin: str = ""
) -> str:
    """The page: a heading, what was found as a list, the pictures (PNG), the tables, and in small print where
    the numbers come from.
    """
    said = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    shown = "".join(
        f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{_encoded(path)}">'
        for path in pictures
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" '
        f'content="width=device-width"><style>{_STYLE}</style><h1>{html.escape(title)}</h1><ul>{said}</ul>'
        f"{shown}{''.join(table.html() for table in tables)}<p><small>{html.escape(origin)}</small></p></html>\n"
    )


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
