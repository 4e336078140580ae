"""A table, as it stands on a page, in Markdown and on a terminal."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """Rows of text cells under column names; the first column holds names, the others numbers, unless `align`
    says otherwise (a letter a column: l or r).

    A cell of None was not measured. A cell may have a second line, which is small print on a page and left out
    elsewhere. `kinds` are CSS classes of the rows, `colours` those of their curves in a chart.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    title: str = ""
    align: str = ""
    kinds: Sequence[str] = ()
    colours: Sequence[str] = ()

    def html(self) -> str:
        """In a box of its own, which scrolls where the page is narrower."""
        body = "".join(self._html_row(number) for number in range(len(self.rows)))
        heading = f"<h2>{html.escape(self.title)}</h2>" if self.title else ""
        label = html.escape(self.title or ", ".join(self.head), quote=True)
        head = "".join(f'<th class="{self._side(at)}">{html.escape(cell)}' for at, cell in enumerate(self.head))
        return (
            f'{heading}<div class="table" role="region" tabindex="0" aria-label="{label}">'
            f"<table><thead><tr>{head}</thead><tbody>{body}</tbody></table></div>"
        )

    def _html_row(self, number: int) -> str:
        kind = f' class="{self.kinds[number]}"' if self.kinds else ""
        colour = f'<i style="background:{self.colours[number]}"></i> ' if self.colours else ""
        cells = [self._html_cell(at, cell) for at, cell in enumerate(self.rows[number])]
        return f"<tr{kind}>{cells[0].replace('>', f'>{colour}', 1)}{''.join(cells[1:])}</tr>"

    def _html_cell(self, column: int, cell: str | None) -> str:
        if cell is None:
            return f'<td class="none">{NOT_MEASURED}</td>'
        first, _, rest = cell.partition("\n")
        small = f"<br><small>{html.escape(rest)}</small>" if rest else ""
        return f'<td class="{self._side(column)}">{html.escape(first)}{small}</td>'

    def markdown(self) -> str:
        head, *body = self._padded([cell.replace("|", "\\|") for cell in row] for row in self._cells())
        rule = [("-" * (len(cell) + 1) + (":" if self._side(at) == "r" else "-")) for at, cell in enumerate(head)]
        return "\n".join(["| " + " | ".join(head) + " |", "|" + "|".join(rule) + "|", *("| " + " | ".join(row) + " |" for row in body)])

    def text(self) -> str:
        return "\n".join("  ".join(row).rstrip() for row in self._padded(self._cells()))

    def _cells(self) -> list[list[str]]:
        """The first line of every cell, the names of the columns first."""
        rows = [[NOT_MEASURED if cell is None else cell.partition("\n")[0] for cell in row] for row in self.rows]
        return [list(self.head), *rows]

    def _padded(self, rows: Iterable[Sequence[str]]) -> list[list[str]]:
        rows = list(rows)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            [cell.rjust(width) if self._side(at) == "r" else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
            for row in rows
        ]

    def _side(self, column: int) -> str:
        return self.align[column] if self.align else "lr"[column > 0]
