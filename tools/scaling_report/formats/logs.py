"""Images/s from logs of other programs. The unit decides: a value is of the whole job, of one GPU or of one
process, by the words around it or by the program that wrote it.

  of the job      DeepSpeed (CurrSamplesPerSec), timm (Time: 0.35s, 732.10/s), lbtrain (metrics.jsonl),
                  MLPerf (:::MLLOG throughput, or train_samples over the time of epochs and blocks), DLLogger
                  (total_ips, text and JSON), "Total img/sec on 8 GPU(s): 2400", "total 2400 images/s", and a
                  number beside images/s, img/s, imgs/s, images/sec, samples/s, examples/s or
                  samples_per_second without more words
  of a GPU        Horovod (Iter #0: 300.1 img/sec per GPU), and every "per GPU", "/GPU", "each GPU", before or
                  after the number; the same of a device, card, chip, accelerator or TPU
  of a process    torchvision's references (img/s: 800.1 (790.2)), which give each process one GPU, and every
                  "per process", "/rank", "each worker"
  not decided     tf_cnn_benchmarks (10  images/sec: 300.0): of one process, which may hold several GPUs; its
                  last line, "total images/sec", decides, or --per does. "per node", "rank 0: 300 images/s",
                  "[1,0]<stdout>: 300 images/s" (its own, or the job's as it prints them), "mean over ranks",
                  "8 x 300 images/s", "/" with another word, and every rate beside a word such as GPU, rank,
                  process, node, local, single or pid, unless it says of how many: "on 8 GPUs"

Of a line with several values the one of the job counts. Lines of a validation or test are left out, and so
are all below a heading such as "Validation:" up to the next such as "Training:", rates of a loader or an
inference, peaks and what was expected.
Values are taken to be of equally many images, and the rate is images over time. In a log with stalls (0
images/s) they are taken to be of equal times. Stalls and rates of two kinds are printed.
Thousands may be separated by a comma, apostrophe, underscore or thin space. With a plain space, "throughput:
2 400 images/s" is 2,400 and "step 2 400 images/s" is 400; without such a word before it a line is rejected.
"2.400 images/s" is 2.4 in a log whose lines with rates hold a number that only a decimal dot explains (0.351,
12.5, 2400.125), or of a program named above; another log with three figures behind the dot is rejected.
"""

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..report import ReportError
from .sections import training_lines

Unit = Literal["total", "gpu", "process", "undecided", "bare"]
"""bare: a number beside images/s without more words, which is of the whole job unless --per says else."""
_SEPARATORS = ",'\u2019_\u00a0\u2009\u202f"
"""Of thousands: comma, apostrophes, underscore, and spaces that do not end a word."""
_NUMBER = (
    rf"(?<![\d.{_SEPARATORS}-])(\d{{1,3}}(?:[{_SEPARATORS}]\d{{3}})+(?:\.\d+)?"
    rf"|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![.{_SEPARATORS}]?\d)"
)
_THOUSAND = r"(?P<thousand>\s?k\b(?!\s*[=:]))?"
_UNIT = r"(?:images?|imgs?|samples?|examples?)[\s_]?(?:/|per)[\s_]?s(?:ec(?:ond)?)?\b"
_UNIT_FIRST = rf"(?:(?<![a-z])(?P<thousands>k)\s?|(?<![a-z])){_UNIT}"
# The most particular first.
_OF_PROGRAMS: tuple[tuple[Unit, str], ...] = (
    ("total", rf"CurrSamplesPerSec=\s*{_NUMBER}"),
    ("total", rf"Train: .*?Time: [0-9.]+s, +{_NUMBER}/s"),
    ("total", rf"(?<!val\.)total_ips\s*:\s*{_NUMBER}"),
    ("total", rf"(?<!val\.)compute_ips\s*:\s*{_NUMBER}"),
    ("total", rf"total img/sec on \d+ .PU\(s\):\s*{_NUMBER}"),
    ("undecided", rf"(?:^|\s)\d+\s+images/sec:\s*{_NUMBER}"),
    ("process", rf"(?:eta|lr):.*\bimg/s:\s*{_NUMBER}"),
)
_TOTALS: tuple[tuple[Unit, str], ...] = (
    ("total", rf"\btotal\s+{_UNIT}\s*[:=]?\s*{_NUMBER}{_THOUSAND}"),
    ("total", rf"\btotal\s*[:=]?\s*{_NUMBER}{_THOUSAND}\s*{_UNIT}"),
    ("total", rf"{_NUMBER}{_THOUSAND}\s*{_UNIT}\s*(?:in )?total"),
    ("total", rf"{_UNIT}\s*[(,;|/]\s*{_NUMBER}{_THOUSAND}\s*(?:in total|total|overall|aggregated?)\b"),
    ("total", rf"{_UNIT}\s*[(,;|/]\s*(?:total|overall|aggregated?)\s*[:=]?\s*{_NUMBER}{_THOUSAND}"),
)
_PROGRAMS, _WORDED_TOTALS = (
    tuple((unit, re.compile(pattern, re.IGNORECASE)) for unit, pattern in patterns)
    for patterns in (_OF_PROGRAMS, _TOTALS)
)
_OWNERS: dict[Unit, str] = {
    "gpu": r"GPUs?|CPUs?|TPUs?|devices?|accelerators?|cards?|chips?",
    "process": r"process(?:es)?|procs?|ranks?|workers?|replicas?",
    "undecided": r"[a-z]+",
}
_EACH = r"(?:per[\s_-]?|/\s*|(?:on |from |by |of )?each(?: of(?: the)?(?: \d+)?)? )"
_NOT_OF_THE_NEXT = r"(?!\s*:\s*\d|=\d)"
"""Behind words that belong to the number before them."""
_OF, _OF_WHAT_IS_BEFORE = (
    rf"(?:\s*\(?\s*{_EACH}(?P<owner>[a-z]+)\b{behind}\)?)?" for behind in ("", _NOT_OF_THE_NEXT)
)
# A number after its unit, before it, and after it with no sign between.
_RATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_UNIT_FIRST}{_OF}\)?\s*[:=]\s*{_NUMBER}{_THOUSAND}(?!\s?k?\s*{_UNIT})",
        rf"{_NUMBER}(?P<thousand>\s?k)?\s*{_UNIT}{_OF_WHAT_IS_BEFORE}",
        rf"{_UNIT_FIRST}{_OF}\s+{_NUMBER}{_THOUSAND}",
    )
)
# Figures with plain spaces, which may separate thousands or numbers. The word before them decides: a rate is
# one number, and a counter takes the first.
_SPACED_NUMBER = r"(?<![\d.,/-])(?<!\d:)(?P<number>[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?)(?![.,]?\d)"
_SPACED = (
    re.compile(
        r"(?:\b(?:(?P<rate>throughput|speed|rate|total|average|avg|mean)"
        r"|(?P<counter>step|epoch|iter|iteration|batch))\s*[:=#]*\s*)?"
        rf"{_SPACED_NUMBER}\s*{_UNIT}",
        re.IGNORECASE,
    ),
    re.compile(rf"{_UNIT}{_OF}\)?\s*[:=]\s*{_SPACED_NUMBER}", re.IGNORECASE),
)
_NAMED_OWNERS = "|".join(pattern for unit, pattern in _OWNERS.items() if unit != "undecided")
_EACH_BEFORE = re.compile(
    rf"(?:\b|_){_EACH}(?P<owner>{_NAMED_OWNERS})(?![a-z])|(?<![a-z])(?P<prefix>{_NAMED_OWNERS})/$", re.I
)
_EACH_AFTER = re.compile(rf"[\s(]*{_EACH}(?P<owner>{_NAMED_OWNERS})(?![a-z]){_NOT_OF_THE_NEXT}", re.I)
_ONE = rf"\b(?:cuda|node|host|{_NAMED_OWNERS})[\s:#=-]*\d+\b"
_LABEL = (
    r"^\s*(?:\[(?:[a-z]*\d+|\d+,\d+)\](?:<std\w+>)?|\d+|\d+\.\d+\.\d+\.\d+|(?!step|epoch|iter|batch)[a-z][a-z-]*\d+)"
    r"(?::(?!\d)|(?<=\])\s)"
)
"""Of a rank or a host, as srun, mpirun, torchrun and pdsh put it before what each prints."""
_LOCAL = rf"\b(?:(?:local|my|this)\s+(?:{_NAMED_OWNERS}|node|host|throughput|speed|rate)|node throughput)\b"
_TIMES = "[x*\u00d7\u00b7]"
_MEAN_OVER = r"\b(?:mean|average|avg|median) (?:over|across|of) "
_ONE_BEFORE, _ONE_AFTER = (
    re.compile(rf"{_ONE}|{_LABEL}|{_LOCAL}|\d\s*{_TIMES}\s*$|{_MEAN_OVER}", re.I),
    re.compile(rf"[\s,;([]*(?:on|from|of|by|at|in)?\s*{_ONE}|[\s(]*(?:each\b|{_TIMES}\s*\d)", re.I),
)
_OF_ALL = re.compile(
    rf"\b(?:on|across|with|using|from)(?: all)?(?: \d+)?(?: [a-z]+\d+)? (?:{_NAMED_OWNERS}|nodes|hosts)\b"
    rf"|\(\d+ (?:{_NAMED_OWNERS})\)|^\W*\d+ (?:{_NAMED_OWNERS})\s*[:|,]"
    rf"|(?<![a-z])(?:num_?)?(?:{_NAMED_OWNERS})\s*=\s*(?:\d+(?=\W)|cuda\b(?!:))"
    rf"|(?:{_NAMED_OWNERS})\s*[:=]\s*$"
    rf"|(?<![a-z])(?:{_NAMED_OWNERS})[\s_]?(?:mem\w*|util\w*|temp\w*|hours?)",
    re.IGNORECASE,
)
"""Words with an owner in them that name all of the job, the next value, or another quantity."""
_A_PART = re.compile(
    rf"(?<![a-z])(?:{_NAMED_OWNERS}|nodes?|hosts?|local|single|pid|cuda)(?![a-z])|Worker\b", re.IGNORECASE
)
"""Words of a line that leave open whether its rate is of the whole job."""
_OF_ANOTHER_PART = re.compile(
    r"\b(?:infer\w*|predict\w*|decod\w*|data|(?:data[\s_-]?)?load(?:er|ing)|theoretical|ideal|expected|"
    r"target|warm-?up|peak|best|max(?:imum)?|min(?:imum)?)(?:\s+(?:throughput|speed|rate))?(?:\s*\[[^\]]*\]\.?)?\s*[:=]?\s*$",
    re.IGNORECASE,
)
"""Words right before a rate that is not what training reaches on the whole."""
_SCORING = re.compile(
    r"(?<![a-z])(?:val|valid|validat(?:ion|ing|e)|eval|evaluat(?:ion|ing|e)|test|testing)(?![a-z])"
    r"(?![\s_/-]*(?:loss|acc|top|error|prec|score|set))",
    re.IGNORECASE,
)
"""Words before a rate of a validation."""
_DLLOGGER = (
    "total_ips",
    "train_throughput",
    "throughput_train",
    "throughput",
    "images_per_sec",
    "compute_ips",
    "ips",
)
_DOTTED = re.compile(r"[1-9]\d{0,2}\.\d{3}")
"""Figures whose dot may separate thousands."""
_DECIMAL = re.compile(r"(?<![\w.,/-])(?:(?:0|\d{4,})\.\d+|\d+\.(?:\d{1,2}|\d{4,}))(?![\d.]|,\d)|\d,\d{3}\.\d")
"""A number that is none unless its dot is a decimal one."""
_DISAGREE = 0.10
_ABSURD = 1e15
LEAST_VALUES = 3


@dataclass(frozen=True)
class Reading:
    value: float
    unit: Unit
    dotted: str = ""
    """The figures, where the dot in them may separate thousands."""


def job_rates(lines: Sequence[str], *, gpus: int, per: Unit | None = None) -> list[float]:
    """images/s of the whole job on `gpus` GPUs, line by line, without the warm-up (a tenth, at least one).

    `per` says what the values are of, where the log does not. A stall is a value of 0. Raises ReportError
    where a log has two readings, naming both, and where it states too little.
    """
    lines = training_lines(lines)
    read = [(line, each) for line in lines if (each := read_line(line))]
    _check_dots([line for line, _ in read], [each.dotted for _, each in read if each.dotted])
    readings = [each for each in (*_mlperf(lines), *(each for _, each in read)) if 0 <= each.value < _ABSURD]
    values, stated = _chosen(readings, gpus, per)
    warm = values[max(1, len(values) // 10) :]
    if len(warm) < LEAST_VALUES or not any(warm):
        raise ReportError(
            f"{len(list(filter(None, warm)))} images/s values above 0 after warm-up, at least {LEAST_VALUES} "
            "values are needed; `ingest --help` lists what is read"
        )
    if stated:
        _check(statistics.median(warm), statistics.median(stated), gpus)
    return warm


def _chosen(readings: Sequence[Reading], gpus: int, per: Unit | None) -> tuple[list[float], list[float]]:
    """The readings of the kind that a log has most of, in images/s of the job; and the totals of another kind
    that these must agree with.
    """
    if per:
        opened = [each for each in readings if each.unit in ("undecided", "bare")]
        if 2 * len(opened) > len(readings):
            return [each.value * (1 if per == "total" else gpus) for each in opened], []
        readings = [each for each in readings if each.unit not in ("undecided", "bare")]
    totals, bare = ([each.value for each in readings if each.unit == unit] for unit in ("total", "bare"))
    others = [each for each in readings if each.unit not in ("total", "bare")]
    if len(others) > len(totals) + len(bare):
        stated = [value for value in totals or bare if value]
        return [each.value * _factor(others, stated, gpus) for each in others], stated
    return (bare, [value for value in totals if value]) if len(bare) > len(totals) else (totals, [])


def _check_dots(lines: Sequence[str], dotted: Sequence[str]) -> None:
    if dotted and not any(map(_DECIMAL.search, lines)):
        raise ReportError(
            f"two readings: {dotted[0]} images/s with a decimal dot, or {dotted[0].replace('.', ',')} with a "
            "dot between the thousands, and no other number beside the rates decides. Write the numbers of "
            "the log without dots between the thousands, or with two decimals"
        )


def _factor(others: Sequence[Reading], totals: Sequence[float], gpus: int) -> int:
    """How many of what the values are of make the job."""
    known = [each.value for each in others if each.value]
    if not known or all(each.unit != "undecided" for each in others):
        return gpus
    value = statistics.median(known)
    if totals:
        return max(1, round(statistics.median(totals) / value))
    if gpus == 1:
        return 1
    raise ReportError(
        f"two readings: {value:,.1f} images/sec are of one process or node, which may hold several GPUs, or "
        f"of the job that it is a part of. On {gpus} GPUs that is the whole job, or {value * gpus:,.1f} "
        f"images/s from {gpus} processes. Say which with --per total or --per process"
    )


def _check(value: float, stated: float, gpus: int) -> None:
    if abs(value / stated - 1) > _DISAGREE:
        raise ReportError(
            f"two readings: {value:,.1f} images/s from the values of each step on {gpus} GPUs, and "
            f"{stated:,.1f} from the total that the log states. Check the number of GPUs, or say with --per "
            "what the values are of where the log does not"
        )


def read_line(line: str) -> Reading | None:
    """What a line states; None of a line that states no rate."""
    if line.startswith("{"):
        return _json(line, ("images_per_sec",))
    if line.startswith("DLLL "):
        return _json(line[5:], _DLLOGGER)
    line = _without_spaces(line)
    for unit, pattern in _PROGRAMS:
        if match := pattern.search(line):
            return None if _of_scoring(line, match) else Reading(_number(match[1]), unit)
    for unit, pattern in _WORDED_TOTALS:
        if match := pattern.search(line):
            return None if _of_scoring(line, match) else Reading(*_value(match, match[1], unit))
    matches = next((found for rate in _RATES if (found := list(rate.finditer(line)))), [])
    if matches and _of_scoring(line, matches[0]):
        return None
    readings = [
        _reading(match, words, line[match.end() : after])
        for before, match, after in _with_ends(matches, len(line))
        if not _OF_ANOTHER_PART.search(words := line[before : match.start()])
    ]
    return next((each for each in readings if each.unit == "bare"), readings[0] if readings else None)


def _of_scoring(line: str, rate: re.Match[str]) -> bool:
    """Whether the words before a rate, or its own first word, are of a validation."""
    return bool(_SCORING.search(line[: rate.end()])) and "train" not in line.lower()


def _without_spaces(line: str) -> str:
    """`line` with a rate of 2 400 written as 2400. Raises ReportError where a part of it may be another
    number.
    """
    before, after = (pattern.search(line) for pattern in _SPACED)
    if not (match := before or after):
        return line
    number, words = match["number"], match.groupdict()
    if words.get("counter") and number.count(" ") == 1:
        return line
    if not words.get("rate"):
        part = number.split(" ")[-1 if before else 0]
        raise ReportError(
            f"two readings: {number.replace(' ', ',')} or {part} images/s in {line.strip()!r}. Write the "
            "numbers of the log without spaces between the thousands"
        )
    return line[: match.start("number")] + number.replace(" ", "") + line[match.end("number") :]


def _with_ends(matches: Sequence[re.Match[str]], end: int) -> Iterator[tuple[int, re.Match[str], int]]:
    """Each match with the end of the one before it and the start of the next."""
    ends, starts = [match.end() for match in matches], [match.start() for match in matches]
    return zip([0, *ends], matches, [*starts[1:], end], strict=False)


def _reading(match: re.Match[str], before: str, after: str) -> Reading:
    """A value with its unit; `before` and `after`: the words of the line around it, up to other values."""
    groups = match.groupdict()
    number = next(text for text in match.groups() if text and text[0].isdigit())
    named = _EACH_AFTER.match(match.string, match.end()) or _EACH_BEFORE.search(before)
    each = groups["owner"] or (named and next(filter(None, named.groups())))
    if each:
        unit = next(unit for unit, pattern in _OWNERS.items() if re.fullmatch(pattern, each, re.I))
        return Reading(*_value(match, number, unit))
    of_one = _ONE_BEFORE.search(before) or _ONE_AFTER.match(match.string, match.end())
    of_one = of_one or _A_PART.search(_OF_ALL.sub("", f"{before} {match[0]} {after}"))
    return Reading(*_value(match, number, "undecided" if of_one else "bare"))


def _value(match: re.Match[str], number: str, unit: Unit) -> tuple[float, Unit, str]:
    """Of a `Reading`: thousands are written out, and `number` is kept where its dot may separate them."""
    words = match.groupdict()
    thousand = words.get("thousand") or words.get("thousands")
    dotted = _DOTTED.fullmatch(number) and not thousand
    return _number(number) * (1000 if thousand else 1), unit, number if dotted else ""


def _number(text: str) -> float:
    return float(re.sub(f"[{_SEPARATORS}]", "", text))


def _json(text: str, names: Sequence[str]) -> Reading | None:
    values = _object(text)
    if values.get("step") in ("PARAMETER", [], ()):  # DLLogger's settings and its summary
        return None
    values = values.get("data", values)
    for name in names:
        for key, value in values.items() if isinstance(values, dict) else ():
            training = not re.match(r"(?:val|eval|test)", key)
            if training and key.rpartition(".")[2] == name and _is_number(value):
                return Reading(float(value), "total")
    return None


def _object(text: str) -> dict[str, Any]:
    """What a line of JSON holds by name; nothing for any other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _ABSURD


def _mlperf(lines: Sequence[str]) -> Iterator[Reading]:
    events = [event for line in lines if (event := _object(line.partition(":::MLLOG ")[2]))]
    values: list[Any] = [
        event.get("value") for event in events if event.get("key") in ("tracked_stats", "throughput")
    ]
    stated: list[Any] = [each.get("throughput") if isinstance(each, dict) else each for each in values]
    yield from (Reading(float(each), "total") for each in filter(_is_number, stated))
    if not any(map(_is_number, stated)):
        yield from (Reading(each, "total") for each in _of_epochs(events))


def _of_epochs(events: Sequence[dict[str, Any]]) -> Iterator[float]:
    """train_samples over the time of every epoch, or of every block of epochs between two evaluations."""
    samples: Any = next((event.get("value") for event in events if event.get("key") == "train_samples"), None)
    kind = "epoch" if any(event.get("key") == "epoch_start" for event in events) else "block"
    began: dict[str, Any] = {}
    for event in events:
        if event.get("key") == f"{kind}_start":
            began = event
        elif event.get("key") == f"{kind}_stop":
            epochs: Any = 1 if kind == "epoch" else _object_in(began, "metadata").get("epoch_count")
            first: Any = began.get("time_ms")
            last: Any = event.get("time_ms")
            if all(map(_is_number, (samples, epochs, first, last))) and first < last:
                yield 1000 * samples * epochs / (last - first)
            began = {}


def _object_in(event: dict[str, Any], name: str) -> dict[str, Any]:
    found = event.get(name)
    return found if isinstance(found, dict) else {}
