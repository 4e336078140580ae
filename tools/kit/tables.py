"""A table, as it stands on a page, in Markdown and on a terminal."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """Rows of text cells under column names; the first column holds names, the others numbers, unless `align`
    says otherwise (a letter a column: l or r).

    A cell of None was not measured. A cell may have a second line, which is small print on a page and left
    out elsewhere. `kinds` are CSS classes of the rows, `colours` those of their curves in a chart.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    title: str = ""
    align: str = ""
    kinds: Sequence[str] = ()
    colours: Sequence[str] = ()

    def html(self) -> str:
        """In a box of its own, which scrolls where the page is narrower."""
        names = zip(self._sides, map(html.escape, self.head), strict=True)
        head = "".join(f'<th class="{side}">{name}' for side, name in names)
        body = "".join(self._html_row(number) for number in range(len(self.rows)))
        heading = f"<h2>{html.escape(self.title)}</h2>" if self.title else ""
        label = html.escape(self.title or ", ".join(self.head))
        return (
            f'{heading}<div class="table" role="region" tabindex="0" aria-label="{label}">'
            f"<table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"
        )

    def _html_row(self, number: int) -> str:
        kind = f' class="{self.kinds[number]}"' if self.kinds else ""
        cells = [_html_cell(*each) for each in zip(self._sides, self.rows[number], strict=True)]
        if self.colours:
            cells[0] = cells[0].replace(">", f'><i style="background:{self.colours[number]}"></i> ', 1)
        return f"<tr{kind}>{''.join(cells)}</tr>"

    def markdown(self) -> str:
        head, *body = self._padded(bar="\\|")
        rule = [
            "-" * (len(cell) + 1) + "-:"[side == "r"] for side, cell in zip(self._sides, head, strict=True)
        ]
        return "\n".join([_line(head), f"|{'|'.join(rule)}|", *map(_line, body)])

    def text(self) -> str:
        return "\n".join("  ".join(row).rstrip() for row in self._padded())

    def _padded(self, bar: str = "|") -> list[list[str]]:
        """The first line of every cell, in columns of one width; the names of the columns first."""
        shown = [[NOT_MEASURED if cell is None else cell for cell in row] for row in [self.head, *self.rows]]
        rows = [[cell.partition("\n")[0].replace("|", bar) for cell in row] for row in shown]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        forms = [f"{'<>'[side == 'r']}{width}" for side, width in zip(self._sides, widths, strict=True)]
        return [[f"{cell:{form}}" for cell, form in zip(row, forms, strict=True)] for row in rows]

    @property
    def _sides(self) -> str:
        return self.align or "l" + "r" * (len(self.head) - 1)


def _html_cell(side: str, cell: str | None) -> str:
    if cell is None:
        return f'<td class="none">{NOT_MEASURED}</td>'
    first, _, rest = cell.partition("\n")
    small = f"<br><small>{html.escape(rest)}</small>" if rest else ""
    return f'<td class="{side}">{html.escape(first)}{small}</td>'


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
