"""Files of a run, damaged at every kind of place, and what becomes of the next start.

    python -m tests.faults.damage

Counts, for each file that a run reads back, the damaged copies that end in a traceback, and writes the table
in docs/reliability.md. tests/unit/test_damaged_files.py asks for none of a sample of them.
"""

import functools
import json
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench import rows
from lbtrain import Recipe
from lbtrain.errors import UserError
from lbtrain.plan.plan import make_plan
from lbtrain.runs import legs
from lbtrain.runs.best import BestCheckpoint
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.fingerprint import leaves
from lbtrain.runs.progress import Progress
from lbtrain.runs.records import Records, open_metrics
from lbtrain.runs.rows import EvalRow, TrainRow, read_rows
from tools.kit.publish import with_block
from tools.landscape.runs import Run

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
WORDS = (
    *(b"", b"\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\t", b" ", b"~", b"null", b"-1"),
    *(b"1e999", b"NaN", b"9" * 5000),
    *(b"true", b"\"", b"'", b"{", b"}", b"[", b"]", b"[" * 3000, b":", b",", b"- ", b"#"),
    *(b"---\n", b"...\n", b"%YAML 9.9\n", b"!!binary x", b"!!python/object/apply:os.getcwd []"),
    *(b"${oc.env:HOME}", b"${seed}", b"???", b"&a [x]", b"*a"),
    *(b"{\"kind\": \"train\"}", b"\x1b[2J", "\u2028".encode(), b"0x10", b"010", b"1_0", b"yes"),
)  # fmt: skip
BOMB = b"a0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)
)


def damaged(content: bytes, draw: random.Random, each: int) -> Iterator[bytes]:
    """The ways to damage a file as a whole, then `each` of every way to damage it at a place."""
    yield from (
        b"",
        b"\0" * 4096,
        draw.randbytes(4096),
        BOMB,
        content + BOMB,
        b"\n" * 100,
        b"[]",
        b"{}",
        b"3",
    )
    yield from (b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n"), content * 2, content[::-1])
    for _ in range(each):
        at, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        word = draw.choice(WORDS)
        lines = content.splitlines(keepends=True)
        line = draw.randrange(len(lines))
        yield content[:at]
        yield content[at:]
        yield content[:at] + content[end:]
        yield content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        yield content[:at] + word + content[at:]
        yield content[:at] + word + content[end:]
        yield b"".join([*lines[:line], *lines[line + 1 :]])
        yield b"".join([*lines[:line], lines[line], *lines[line:]])
        yield re.sub(rb"(?<=: )[^\n,]*", lambda _, word=word: word, lines[line]).join(
            (b"".join(lines[:line]), b"".join(lines[line + 1 :]))
        )


def odd_places(path: Path) -> Iterator[Callable[[], object]]:
    """What can stand where a file was: nothing, a directory, a link to nothing, to itself or to a device, a
    pipe that nobody writes to.
    """
    yield lambda: None
    yield path.mkdir
    yield lambda: path.symlink_to(path.with_name("nothing"))
    yield lambda: path.symlink_to(path)
    yield lambda: path.symlink_to("/dev/zero")
    yield lambda: os.mkfifo(path)


def remove(path: Path) -> None:
    if path.is_symlink() or path.exists():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


RECIPE = Recipe().vary(model=dict(name="cifar_resnet8", args={"a": [1, 2.5, "x"]}), seed=7)


@functools.cache
def _plan_json() -> str:
    return make_plan(RECIPE.vary(model=dict(args={})), 1).to_json()


def a_run(folder: Path) -> Path:
    """A run directory with all the files that the next start reads."""
    (folder / "recipe.yaml").write_text(RECIPE.to_yaml())
    (folder / "plan.json").write_text(_plan_json())
    (folder / "fingerprint.json").write_text(json.dumps(dict(leaves("plan", json.loads(_plan_json())))))
    (folder / legs.FILE).write_text(json.dumps([{"step": 3, "checkpoint": "runs/a/checkpoints/x.pt"}]))
    records = Records(folder, enabled=True, on_screen=False, total_examples=3200)
    for step in range(1, 7):
        records.write(TrainRow(step, 32 * step, step / 10, 32, 0.1, 2.0, 1234.5, 0.25, 0))
    records.write(EvalRow(6, 192, 0.6, {"top1_error": 12.5, "loss": 0.5}, seconds=0.1))
    records.close()
    state = {"weight": torch.ones(4)}
    checkpoints = Checkpoints(folder, keep=9, best="top1_error")
    checkpoints.best.improved({"top1_error": 12.5})
    for step in (3, 6):
        checkpoints.save(
            {"model": state, "optimizer": {}, "loss_scale": 1.0, "loss_scale_steps": 0},
            Progress(32 * step, step),
            RECIPE.to_yaml(),
            is_best=True,
        )
        checkpoints.wait()
    RunDirectory(folder).write_summary(
        {
            "recipe": "x", "step": 6, "examples": 192, "top1_error": 12.5, "seconds": 1.5, "world_size": 1,
            "engine": "ddp", "primary_metric": {"name": "top1_error", "lower_is_better": True},
        },
        write=True,
    )  # fmt: skip
    return folder


def start_over_recipe(folder: Path) -> str:
    """`another` where the damaged file is taken for one of another experiment, which ends the start too."""
    return "another" if RunDirectory(folder).changes(RECIPE) else "same"


def resume_metrics(folder: Path) -> str:
    _, note = read_rows(folder / "metrics.jsonl")
    open_metrics(folder / "metrics.jsonl", 160).close()
    after = read_rows(folder / "metrics.jsonl")
    assert after[1] == "" and all(row["examples"] <= 160 for row in after[0])
    RunDirectory(folder).replaced_images()
    return "note" if note else "same"


def resume_checkpoint(folder: Path) -> str:
    found = Checkpoints(folder, keep=9).newest()
    assert found is not None
    return "note" if found.skipped else "same"


def read_summary(folder: Path) -> str:
    found = RunDirectory(folder).summary()
    return "scored again" if found is None else "same"


def take_lock(folder: Path) -> str:
    RunDirectory(folder).lock(patience=0).close()
    return "same"


def go_on_as_leg(folder: Path) -> str:
    assert len(legs.reasons(legs.recorded(folder))) <= 1
    return "same"


def know_the_best(folder: Path) -> str:
    """A worse value must not replace the best checkpoint; a file that is missing is none of a run yet."""
    worse = BestCheckpoint(folder / "checkpoints", "top1_error").improved({"top1_error": 1e300})
    return "another" if worse else "same"


def read_plan(folder: Path) -> str:
    plan = Run(folder).plan
    assert isinstance(plan["bn_batch_size"] + plan["world_size"] + plan["batch_size"], int)
    return "same"


FILES: dict[str, Callable[[Path], str]] = {
    "recipe.yaml": start_over_recipe,
    "metrics.jsonl": resume_metrics,
    "checkpoints/step_000000006.sha256": resume_checkpoint,
    "checkpoints/step_000000006.pt": resume_checkpoint,
    "summary.json": read_summary,
    "plan.json": read_plan,
    "legs.json": go_on_as_leg,
    "checkpoints/best.json": know_the_best,
    "lock": take_lock,
}


def outcomes(name: str, folder: Path, each: int, seed: int = 0) -> Counter[str]:
    """How often a start with a damaged file ends in each way; a traceback is named with its first copy."""
    RunDirectory(folder).lock().close()
    path, read = folder / name, FILES[name]
    content = path.read_bytes()
    found: Counter[str] = Counter()

    def count(what: bytes | str) -> None:
        try:
            outcome = read(folder)
        except UserError as error:
            outcome = "message"
            assert "\n" not in str(error) and str(error).isprintable(), (name, what, str(error))
        except Exception as error:
            outcome = "traceback"
            found[f"{type(error).__name__}: {error}, of {what[:200]!r}"] += 1
        found[outcome] += 1

    for copy in damaged(content, random.Random(seed), each):
        remove(path)
        path.write_bytes(copy)
        count(copy)
    for number, place in enumerate(odd_places(path)):
        remove(path)
        place()
        count(f"odd place {number}")
    remove(path)
    return found


ENDS = ("traceback", "message", "another", "note", "scored again", "same")
COMMAND = "python -m tests.faults.damage"


def counted(name: str, each: int) -> dict[str, str]:
    """A row of results/damage.csv."""
    with tempfile.TemporaryDirectory() as folder:
        found = outcomes(name, a_run(Path(folder)), each)
    counts = {end: str(found[end]) for end in ENDS}
    copies = str(sum(found[end] for end in ENDS))
    return {"bench": "damage", "case": name, "copies": copies} | counts | {"command": COMMAND}


def main() -> None:
    lines = [counted(name, each=300) for name in FILES]
    rows.replace(lines, "damage")
    head = ("case", "copies", *ENDS)
    cells = [head, ["---"] * len(head), *([line[name] for name in head] for line in lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    print(table)
    if rows.published():
        PAGE.write_text(with_block(PAGE.read_text(), "damage", table))


if __name__ == "__main__":
    main()
