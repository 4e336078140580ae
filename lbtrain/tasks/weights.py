"""Trained weights to start from (`model.weights`): files of several makers, run directories, exported folders
and timm's tags, matched by name with the model that they are loaded into.

Nothing is left out without a word: a classifier of another size keeps its initial values and is named, names
that the model does not have are listed, and a layer that the file lacks is an error. Files are read with
`weights_only=True`: nothing in them is executed.
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models import load_state_dict
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from lbtrain.errors import RecipeError, naming_what_is_closed, reason_of
from lbtrain.nn import head_names
from lbtrain.recipe.sections import ModelConfig
from lbtrain.runs.checkpoint_files import check_whole, checkpoint_paths, newest_whole
from lbtrain.tasks.backbones import under_names_of

Weights = dict[str, Tensor]
_NAMES_SHOWN = 5
_COUNTER = "num_batches_tracked"
"""Of batch norm: some files leave it out, frozen batch norm does not have it, and nothing here depends on
it.
"""
_EXPORTED = ("export/model.safetensors", "model.safetensors")


@dataclass(frozen=True)
class LoadedWeights:
    """What a model was started from: a digest of the tensors that were loaded, and what a person should know
    of them.
    """

    digest: str = ""
    notes: tuple[str, ...] = ()


def loaded_weights(model: nn.Module) -> LoadedWeights:
    """Of a model that `load_into` has filled; empty for one with random initial values."""
    return cast(LoadedWeights, vars(model).get("loaded_weights", LoadedWeights()))


class ReadWeights(NamedTuple):
    """The tensors that `model.weights` names; `source`: where they are from, as a person finds it, of a
    folder the file in it that was read; `skipped`: a line for each damaged checkpoint that is newer.
    """

    tensors: Weights
    source: str
    skipped: list[str]


def read_weights(config: ModelConfig, arguments: Mapping[str, Any]) -> ReadWeights:
    """`arguments`: of timm.create_model, for a tag. Raises RecipeError with one line for what is damaged, or
    cannot be read or downloaded.
    """
    if file := weights_file(config.weights):
        path, skipped = _whole(file, of_a_folder=Path(config.weights).expanduser().is_dir())
        return ReadWeights(_read_file(path), str(path), skipped)
    from lbtrain.tasks.timm_models import create_model

    name = f"{config.name.partition('.')[0]}.{_tag(config)}"
    return ReadWeights(
        create_model(name, dict(arguments), pretrained=True).state_dict(), config.weights, skipped
    )


def weights_file(name: str) -> Path | None:
    """The file that a path means: itself, what was exported to a folder, or the newest checkpoint of a run.
    None where there is nothing of that name. It is not read: `read_weights` finds out whether it is damaged.
    Raises RecipeError for what this user may not read.
    """
    path = Path(name).expanduser()
    with naming_what_is_closed(f"model.weights={name}"):
        for file in (path, *(path / exported for exported in _EXPORTED)):
            if file.is_file():
                return file
        checkpoints = (checkpoint_paths(path / "checkpoints") or checkpoint_paths(path)) if name else []
    return checkpoints[-1] if checkpoints else None


def _whole(file: Path, *, of_a_folder: bool) -> tuple[Path, list[str]]:
    """The file if it is as it was written, of a folder of checkpoints the newest that is, with a line for
    each damaged one that is newer. Raises RecipeError where none is.
    """
    exported = file.suffix == ".safetensors"
    if of_a_folder and not exported and (newest := newest_whole(file.parent)):
        return newest.path, newest.skipped
    check_whole(file)
    return file, []


def published_name(config: ModelConfig) -> str:
    """The network with the tag of timm that `model.weights` names: what its images are prepared for. Without
    one, its own name.
    """
    try:
        if config.weights and not weights_file(config.weights):
            return f"{config.name.partition('.')[0]}.{_tag(config)}"
    except RecipeError:  # for whoever reads the weights; a run that goes on does not
        pass
    return config.name


def weights_rows(config: ModelConfig) -> list[tuple[str, str]]:
    """(heading, text) for a plan, which reads no weights: where they are from, or a note that they are not
    here, since the machine that plans need not have them; and of a tag, whose configuration says how photos
    become inputs.
    """
    if not config.weights or config.library == "detectron2":  # whose names only detectron2 knows
        return []
    try:
        if file := weights_file(config.weights):
            return [("trained weights", str(file))]
        rows = [("trained weights", f"{_tag(config)} of timm")]
        pixels = f"as for {published_name(config)}, where data.* leaves them to the model"
        return rows + [("pixels of photos", pixels)] * (config.library == "timm")
    except RecipeError as error:
        return [("trained weights: note", str(error))]


def _tag(config: ModelConfig) -> str:
    """Of the network's published weights in timm. Raises RecipeError for a name that is neither that nor a
    file.
    """
    name = config.name.partition(".")[0]
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    tag = config.weights.removeprefix(f"{name}.")
    if tag in tags:
        return tag
    known = f"timm has {', '.join(tags)} for {name}" if tags else f"timm has no published weights for {name}"
    raise RecipeError(
        f"model.weights={config.weights} is neither a file, nor a folder with weights, nor a tag: {known}."
    )


def _read_file(path: Path) -> Weights:
    try:
        content = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever torch makes of bytes it did not write, or of code it does not load
        raise RecipeError(
            f"model.weights={path} is not a file of tensors that torch.save or safetensors has written: "
            f"{reason_of(error)}"
        ) from error
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise RecipeError(
            f"model.weights={path} holds no weights by name. A state dict is expected, alone or as "
            "state_dict or model."
        )
    return content


def load_classifier(model: nn.Module, config: ModelConfig) -> None:
    """Fills a timm classifier. The position embeddings and older names of a file are converted as timm does
    for this model. Raises RecipeError for weights that do not fit.
    """
    read = read_weights(config, config.args)
    converted = read._replace(tensors=_converted(model, read.tensors, read.source))
    load_into(model, converted, head=head_names(model))


def _converted(model: nn.Module, weights: Weights, source: str) -> Weights:
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        weights = convert(weights, model) if convert else weights
    except Exception as error:  # timm's converters stumble over the weights of another network
        raise RecipeError(
            f"model.weights={source} does not fit the model: {type(error).__name__}: {error}"
        ) from error
    own, first = model.state_dict(), getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    for name in [f"{layer}.weight" for layer in ([first] if isinstance(first, str) else first)]:
        if name in own and name in weights and weights[name].shape != own[name].shape:
            weights[name] = adapt_input_conv(own[name].shape[1], weights[name])
    return weights


_PREDICTORS = re.compile(
    r"(roi_heads\..*(cls_score|bbox_pred|mask_fcn_logits)|.*classification_head\.cls_logits)\.\w+"
)
"""The parameters of a detector whose shapes follow the number of classes."""


def load_detector(model: nn.Module, body: nn.Module, config: ModelConfig) -> None:
    """Fills a detector of a run here as a whole, or its backbone `body` from a classifier of the same name.
    Raises RecipeError for weights that do not fit.
    """
    read = read_weights(config, config.args.get("backbone", {}))
    if any(name.startswith("backbone.body.") for name in read.tensors):
        head = {name for name, _ in model.named_parameters() if _PREDICTORS.fullmatch(name)}
        load_into(model, read, head=head)
    else:
        load_into(body, read._replace(tensors=under_names_of(body, read.tensors)), head=set())
        cast(Any, model).loaded_weights = loaded_weights(body)


def load_into(model: nn.Module, read: ReadWeights, *, head: set[str]) -> None:
    """Copies the tensors into `model` by name. A `head` that has another shape in the file keeps its initial
    values. Raises RecipeError where anything else is missing or has another shape.
    """
    own, (weights, source, skipped) = model.state_dict(), read
    new_head = {name for name in head if name not in weights or weights[name].shape != own[name].shape}
    new = head if new_head else set()
    counters = {name for name in own if name.endswith(_COUNTER)}
    missing = own.keys() - weights.keys() - new - counters
    unexpected = {name for name in weights.keys() - own.keys() if not name.endswith(_COUNTER)}
    common = own.keys() & weights.keys() - new
    reshaped = [name for name in common if weights[name].shape != own[name].shape]
    if missing or reshaped:
        raise RecipeError(_does_not_fit(source, own, weights, missing, unexpected, reshaped))
    loaded = {name: weights[name] for name in sorted(common)}
    model.load_state_dict(own | loaded)
    head_note = _head_note(source, weights, own, new, head)
    notes = [*skipped, *head_note, *_unexpected_note(source, unexpected - head)]
    cast(Any, model).loaded_weights = LoadedWeights(_digest(loaded), tuple(notes))


def _does_not_fit(
    source: str, own: Weights, weights: Weights, missing: set[str], unexpected: set[str], reshaped: list[str]
) -> str:
    shapes = [
        f"{name} has shape {tuple(weights[name].shape)} and {tuple(own[name].shape)} in the model"
        for name in sorted(reshaped)[:2]
    ]
    parts = [f"it lacks {_listed(missing)}"] if missing else []
    parts += [f"it has {_listed(unexpected)}, which the model does not have"] if unexpected else []
    return (
        f"model.weights={source} does not fit the model: {'; '.join(parts + shapes)}. Use the weights of "
        "this network, with the same model.args."
    )


def _head_note(source: str, weights: Weights, own: Weights, new: set[str], head: set[str]) -> list[str]:
    if not head:
        return []
    there, here = ({len(tensors[name]) for name in head if name in tensors} for tensors in (weights, own))
    outputs = f"{', '.join(map(str, sorted(here)))} outputs"
    if not new:
        return [f"The classifier of {source} is kept: it has {outputs}, as the model does."]
    found = f"has {', '.join(map(str, sorted(there)))} outputs" if there else "is not there"
    return [f"The classifier is new, with {outputs}: that of {source} {found}."]


def _unexpected_note(source: str, names: set[str]) -> list[str]:
    return (
        [f"Not loaded from {source}, because the model does not have them: {_listed(names)}."]
        if names
        else []
    )


def _listed(names: set[str]) -> str:
    shown, rest = sorted(names)[:_NAMES_SHOWN], len(names) - _NAMES_SHOWN
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _digest(weights: Weights) -> str:
    """16 hexadecimal digits of the SHA-256 of names, shapes and values: the same for every kind of file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
