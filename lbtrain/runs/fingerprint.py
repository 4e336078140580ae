"""What all ranks of a job must have in common, compared before the first step, and what a resumed run should
have in common with the one it continues.

A fingerprint is a set of short texts by name. Ranks exchange its SHA-256 alone, and the texts only where two
of them differ. Two exchanges are made, each before anything could depend on what it compares:
`job_fingerprint` before the plan is made, `run_fingerprint` when the data are open. Each sends 32 bytes per
rank. On 256 ranks a rank receives 8 KiB, in at most 255 messages of a ring: 26 ms at 0.1 ms a message.
"""

import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import lbtrain
from lbtrain.engines.deepspeed_config import complete_config
from lbtrain.errors import LaunchError, RecipeError
from lbtrain.plan.plan import Plan
from lbtrain.recipe import Recipe, keys, written
from lbtrain.runs.provenance import ENGINES, PACKAGES, commit, versions

Fingerprint = dict[str, str]

OF_A_HOST = ("data.root", "data.workers")
"""Keys that may differ between hosts: what is found under the root is compared instead, and the number of
loader processes changes no batch.
"""
_DECODERS = ("pillow", "simplejpeg")
"""They decide the pixels of photos, which the index does not know."""
INITIAL_WEIGHTS = "content of model.weights"
"""The key of their digest."""
_DATA = "data: "
_MOST_DIFFERENCES = 4


def job_fingerprint(recipe: Recipe, engine: str) -> Fingerprint:
    """The recipe, the code and the package versions; `engine` is the one that the recipe runs on here."""
    values = {key: written(recipe, key) for key, _ in keys() if key not in OF_A_HOST}
    unused = ENGINES - {engine}
    found = versions((*PACKAGES, *_DECODERS))
    packages = {f"version of {name}": text for name, text in found.items() if name not in unused}
    code = {"commit": commit(), "source code of lbtrain": _code()} | _own_code(sys.modules)
    return values | packages | code | {"engine": engine}


def run_fingerprint(plan: Plan, index: Mapping[str, str], deepspeed_config: str) -> Fingerprint:
    """The plan, the data set's index, and DeepSpeed's configuration with what a file adds to it."""
    numbers = dict(leaves("plan", json.loads(plan.to_json())))
    if plan.engine == "deepspeed":
        numbers |= leaves("deepspeed", complete_config(plan, deepspeed_config))
    return numbers | {_DATA + name: text for name, text in index.items()}


def leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict | list):
        yield name, str(value)
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(f"{name}.{key}", part)


def _code(package: Path = Path(lbtrain.__file__).parent) -> str:
    """Also where there is no checkout, and where a checkout has changes that are not committed."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _own_code(modules: Mapping[str, Any]) -> Fingerprint:
    """Of the recipe file, and of the modules that it and this process have imported and that are neither
    installed nor lbtrain's: a model that is registered there may differ under one name.
    """
    others = (sys.prefix, sys.base_prefix, Path(lbtrain.__file__).parent)
    folders = tuple(f"{other}{os.sep}" for other in others)
    found = {}
    for name, module in list(modules.items()):
        # A look at __file__ itself imports some lazy modules.
        path = str(getattr(module, "__dict__", {}).get("__file__") or "")
        if not path.endswith(".py") or path.startswith(folders):
            continue
        if not {"site-packages", "dist-packages"} & {*Path(path).parts}:
            label = Path(path).name if name == "__main__" else name
            with contextlib.suppress(OSError):
                content = Path(path).read_bytes()
                found[f"source code of {label}"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def check_same_on_all_ranks(mine: Fingerprint) -> None:
    """Raises LaunchError on every rank, naming ranks, hosts, keys and values, unless all have this
    fingerprint. Collective.
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    text = json.dumps(mine, sort_keys=True).encode()
    digest = torch.frombuffer(bytearray(hashlib.sha256(text).digest()), dtype=torch.uint8).to(device)
    digests = [torch.empty_like(digest) for _ in range(dist.get_world_size())]
    dist.all_gather(digests, digest)
    if all(torch.equal(other, digest) for other in digests):
        return
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (socket.gethostname(), mine))
    raise LaunchError(
        f"the ranks were not started alike: {_differences(everyone)}. Start all ranks with the same command, "
        "the same code and packages, the same data, and a run directory that all hosts share"
    )


def _differences(everyone: list[tuple[str, Fingerprint]]) -> str:
    """Of each key that differs: rank 0's value, and that of the first rank that has another."""
    (first_host, first), texts = everyone[0], []
    for key in sorted({key for _, other in everyone for key in other}):
        others = [rank for rank, (_, other) in enumerate(everyone) if other.get(key) != first.get(key)]
        if others:
            host, other = everyone[others[0]]
            more = f" ({len(others)} ranks differ from rank 0)" if len(others) > 1 else ""
            texts.append(
                f"{key} is {first.get(key, 'not there')} on rank 0 ({first_host}) and "
                f"{other.get(key, 'not there')} on rank {others[0]} ({host}){more}"
            )
    rest = len(texts) - _MOST_DIFFERENCES
    return "; ".join(texts[:_MOST_DIFFERENCES]) + (f"; and {rest} more" if rest > 0 else "")


def notes_on_resume(before: Mapping[str, str], now: Fingerprint) -> list[str]:
    """A line for everything of the code, the packages and the images to score that has changed since the
    checkpoint was saved.

    `before` is the fingerprint in the checkpoint, empty in those of older versions. Raises RecipeError where
    the images to train on have changed: they are then not the ones that were counted as seen.
    """
    changed = {
        key: f"{key} was {before[key]}, is {now[key]}"
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key]
    }
    if data := [text for key, text in changed.items() if key.startswith(f"{_DATA}train.")]:
        raise RecipeError(
            f"the training data have changed since the checkpoint was saved ({'; '.join(data)}): restore "
            "them, or choose another run_dir"
        )
    told = ("version of ", "commit", "source code of ", _DATA)
    return [f"note: {text} since the checkpoint" for key, text in changed.items() if key.startswith(told)]
