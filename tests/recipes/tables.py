"""Published settings and results: published/*.csv, one figure a row, each with its source.

`confidence` is "seen" where the number itself was read in the source, "derived" where it was computed from
such numbers (the note gives the formula), "recalled" where it was never checked.
"""

import csv
from pathlib import Path

FOLDER = Path(__file__).parent / "published"
TABLES = {
    "goyal2017": (146, "2ebf640f401cc71d"),
    "hoffer2017": (51, "18f9f7f47768dff4"),
    "keskar2017": (167, "de0fa0ef72f609a8"),
    "masters2018": (73, "00570b705dfe4180"),
    "mccandlish2018": (57, "43cc9bae1d79172d"),
    "mlperf_rcp": (33, "bc592af4e602fb0d"),
    "modern": (243, "21a1bc6592e0b2b3"),
    "settings": (577, "0d5c78c04def1ab3"),
    "smith2018": (35, "2ff077737d05e77f"),
    "yao2018": (19, "6646c69f5de376d4"),
    "you2017lars": (151, "b1f7903cb846c2ac"),
    "you2019lamb": (50, "6188764f6b4ff7a8"),
}
"""Rows of each table, and the start of its SHA-256: a published figure does not change unnoticed."""
FIGURES = [name for name in TABLES if name not in ("mlperf_rcp", "settings")]
"""The tables that have one figure a row."""


def rows(name: str) -> list[dict[str, str]]:
    """All rows of published/NAME.csv."""
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def seen(name: str) -> list[dict[str, str]]:
    """The rows whose number was read in the source."""
    return [row for row in rows(name) if row["confidence"] == "seen"]
