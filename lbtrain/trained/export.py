"""Write the weights of a run so that others can use them, with a card that says how they were made.

  lbtrain export runs/birds             model.safetensors, config.json, recipe.yaml and README.md
  lbtrain export runs/birds --torch     also model.pt2 (torch.export), whose batch may have any size
  lbtrain export runs/birds --onnx      also model.onnx

They are written to runs/birds/export. A classifier then loads in timm, by
timm.create_model("local-dir:runs/birds/export", pretrained=True): its config.json has class names and
normalisation. A detector loads here, with model.weights=runs/birds/export.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from lbtrain.data.index import printable
from lbtrain.data.views import side_before_crop
from lbtrain.errors import RecipeError, reason_of
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.files import write_whole
from lbtrain.trained.card import model_card
from lbtrain.trained.command import parser_of, prepare_folder
from lbtrain.trained.model import TrainedModel, open_trained


def main(words: Sequence[str]) -> int:
    options = _parser().parse_args(words)
    trained = open_trained(options.run, raw=options.raw_weights)
    if not options.out:
        RunDirectory(trained.run_dir).check_no_link("export")
    folder = Path(options.out) if options.out else trained.run_dir / "export"
    prepare_folder(folder)
    model = trained.build()
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_whole(folder / "config.json", json.dumps(_config(trained, model), indent=1) + "\n")
    write_whole(folder / "recipe.yaml", trained.recipe.to_yaml())
    write_whole(folder / "README.md", model_card(trained, folder))
    for wanted, name, write in ((options.torch, "model.pt2", _torch), (options.onnx, "model.onnx", _onnx)):
        if wanted:
            _traced(trained, model, folder / name, write)
    print(f"Written to {printable(str(folder))}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("export", __doc__)
    parser.add_argument("--torch", action="store_true", help="also write model.pt2 by torch.export")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx by torch.onnx")
    parser.add_argument("--out", metavar="FOLDER", help="default: export in the run directory")
    return parser


def _config(trained: TrainedModel, model: nn.Module) -> dict[str, Any]:
    """In the form that timm reads from a folder or from the Hugging Face hub."""
    inputs, count = trained.inputs, len(trained.class_names)
    named = {"num_classes": count, "label_names": trained.class_names}
    if trained.recipe.model.library != "timm":
        return {"architecture": trained.recipe.model.name, **named, "inputs": dict(inputs)}
    own = getattr(model, "pretrained_cfg", None) or {}
    cfg = {key: own[key] for key in ("first_conv", "classifier") if own.get(key)}
    cfg |= {"input_size": [inputs["channels"], inputs["size"], inputs["size"]], "crop_mode": "center"}
    cfg |= {key: [value / 255 for value in inputs[key]] for key in ("mean", "std")}
    cfg |= {"interpolation": inputs["interpolation"], **named}
    cfg["crop_pct"] = _crop_pct(inputs["size"], inputs["crop_share"]) if inputs["photos"] else 1.0
    arguments = trained.architecture.model.args | {"in_chans": inputs["channels"]}
    return {
        "architecture": trained.recipe.model.name.partition(".")[0],
        "num_classes": count,
        "model_args": arguments,
        "pretrained_cfg": cfg,
    }


def _crop_pct(size: int, share: float) -> float:
    """The share from which timm, which rounds size / crop_pct down, gets the same pixels before the crop."""
    side = side_before_crop(size, share)
    return share if int(size / share) == side else size / (side + 1e-6)


def _traced(
    trained: TrainedModel,
    model: nn.Module,
    path: Path,
    write: Callable[[nn.Module, torch.Tensor, Path], None],
) -> None:
    """Raises RecipeError for a model that cannot be traced."""
    if trained.recipe.model.library != "timm":
        raise RecipeError(f"{path.name} is for classifiers: a detector's heads depend on what is found.")
    images = torch.zeros(2, trained.inputs["channels"], trained.inputs["size"], trained.inputs["size"])
    try:
        write(model, images, path)
    except ImportError as error:
        raise RecipeError(f"{path.name} needs {error.name}: pip install onnx onnxscript") from error
    except Exception as error:  # whatever a tracer makes of a network that it does not know
        raise RecipeError(
            f"{path.name}: {trained.recipe.model.name} cannot be traced: {reason_of(error)}. "
            "The other files are written."
        ) from error


def _torch(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes=shapes), path)


def _onnx(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (images,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
