"""What of a log is of training, and what its rates leave open."""

import re
import statistics
from collections.abc import Iterator, Sequence

_AROUND = (
    r"info|debug|root|epoch|phase|loop|stage|start(?:ing|ed)?|begin(?:ning)?|run(?:ning)?|of|at|on|the|set"
)
_HEADING = re.compile(
    rf"(?:[^\w%]|[\d_]|\b(?:{_AROUND})\b)*"
    r"\b(?:(?P<training>train(?:ing)?)|val|valid|validat(?:ion|ing|e)|eval|evaluat(?:ion|ing|e)|test(?:ing)?)\b"
    rf"(?:[^\w%.]|\.(?!\d)|\d|\b(?:{_AROUND})\b)*",
    re.IGNORECASE,
)
"""A line of nothing but the name of a section, with its date or its epoch: "== Validation, epoch 3 ==". A
decimal number or a % behind the name is a result.
"""
_APART, _LEAST_SHARE = 2.0, 0.2


def training_lines(lines: Sequence[str]) -> list[str]:
    """The lines without sections of a validation or test, which end at the heading of a training. Without
    both headings nobody knows where a section ends, and all lines are kept.
    """
    headings = [_HEADING.fullmatch(line.strip()) for line in lines]
    if len({bool(each["training"]) for each in headings if each}) < 2:
        return list(lines)
    kept, training = [], True
    for line, heading in zip(lines, headings, strict=True):
        training = bool(heading["training"]) if heading else training
        if training or "train" in line.lower():
            kept.append(line)
    return kept


def doubts(rates: Sequence[float]) -> Iterator[str]:
    """What a reader must know of the images/s of a log: stalls, and rates of two kinds."""
    positive = sorted(filter(None, rates))
    if stalls := len(rates) - len(positive):
        yield (
            f"{stalls} of {len(rates)} values are 0 images/s. A step without images has no rate, so the "
            "values are taken to be of equal times, and the rate is their mean"
        )
    least = max(1, round(_LEAST_SHARE * len(positive)))
    ratios = {
        place: positive[place] / positive[place - 1] for place in range(least, len(positive) - least + 1)
    }
    place = max(ratios, key=ratios.__getitem__, default=0)
    if place and ratios[place] >= _APART:
        slow, fast = positive[:place], positive[place:]
        yield (
            f"the rates are of two kinds: {len(slow)} of about {statistics.median(slow):,.0f} images/s and "
            f"{len(fast)} of about {statistics.median(fast):,.0f}, and the rate over time is of both. Leave "
            "out the lines that are not of the training in question"
        )
