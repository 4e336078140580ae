"""What --optimizer names: optimizers of lbtrain, torch, timm and DeepSpeed, and a user's own class."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.recipe.values import from_text

LBTRAIN = ("lars", "lamb", "sgd", "adamw", "nadamw", "muon")
DEEPSPEED = ("adam", "adamw", "adagrad", "muon")
"""Those of DeepSpeed that run on a CPU too: its Lamb and Lion exist for GPUs only."""
DEEPSPEED_MUON = {"betas": [0.9, 0.95], "eps": 1e-10}
"""Of the Adam inside DeepSpeed's Muon: other values than those of its Adam, and of lbtrain's Muon."""
RATES = {"lars": 2.0, "lamb": 0.01, "sgd": 0.1, "muon": 0.02}
OTHER_RATE = 1e-3
FORMS = "lars, lamb, sgd, adamw, nadamw, muon, torch:NAME, timm:NAME, deepspeed:NAME or MODULE:CLASS"


class OptimizerChoice(NamedTuple):
    """One value of --optimizer with its settings."""

    text: str
    args: str = "{}"
    lr: float | None = None
    weight_decay: float = 1e-4

    @property
    def source(self) -> str:
        return self.text.rpartition(":")[0] or "lbtrain"

    @property
    def name(self) -> str:
        return self.text.rpartition(":")[2]

    @property
    def rate(self) -> float:
        return RATES.get(self.name.lower(), OTHER_RATE) if self.lr is None else self.lr

    @property
    def settings(self) -> dict[str, Any]:
        """Of --optimizer-args, and where two implementations have different defaults, DeepSpeed's. Raises
        RecipeError.
        """
        settings: dict[str, Any] = from_text(self.args, dict[str, Any], "--optimizer-args")
        return {**DEEPSPEED_MUON, **settings} if self.text == "deepspeed:muon" else settings


def freeze_what_it_cannot_train(choice: OptimizerChoice, model: nn.Module) -> None:
    """torch.optim.Muon takes matrices and nothing else: all other parameters stay as they are."""
    if choice.source == "torch" and choice.name.lower() == "muon":
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 2)


def make_optimizer(choice: OptimizerChoice, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer in torch's form; of DeepSpeed's own, which only its engine makes, an independent
    implementation of the same definition. Raises ValueError for a name or a setting that there is not.
    """
    makers = {"lbtrain": _lbtrain, "timm": _timm, "torch": _torch, "deepspeed": _like_deepspeed}
    try:
        return makers.get(choice.source, _users_own)(choice, model)
    except (TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"--optimizer {choice.text} {choice.args}: {error}") from error


def deepspeed_section(choice: OptimizerChoice) -> dict[str, Any]:
    """The `optimizer` of a DeepSpeed configuration."""
    settings = {"lr": choice.rate, "weight_decay": choice.weight_decay, **choice.settings}
    if choice.name != "adagrad" and not torch.cuda.is_available():
        settings = {"torch_adam": True, **settings}  # its FusedAdam is a CUDA kernel
    return {"type": choice.name, "params": settings}


def _lbtrain(choice: OptimizerChoice, model: nn.Module) -> torch.optim.Optimizer:
    from lbtrain.optim import create_optimizer

    if choice.name not in LBTRAIN:
        raise ValueError(f"--optimizer {choice.text} is not known; write {FORMS}")
    settings = {"name": choice.name, "weight_decay": choice.weight_decay, **choice.settings}
    optimizer = create_optimizer(Recipe().vary(optimizer=settings).optimizer, model)
    for group in optimizer.param_groups:
        group["lr"] = choice.rate * group.get("lr_scale", 1.0)
    return optimizer


def _timm(choice: OptimizerChoice, model: nn.Module) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    settings = {"momentum": 0.9, **choice.settings}
    return create_optimizer_v2(
        model, choice.name, lr=choice.rate, weight_decay=choice.weight_decay, **settings
    )


def _torch(choice: OptimizerChoice, model: nn.Module) -> torch.optim.Optimizer:
    known = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
    }
    if choice.name.lower() not in known:
        raise ValueError(f"--optimizer {choice.text}: torch.optim has {', '.join(sorted(known))}")
    return _made(known[choice.name.lower()], choice, _trained(model))


def _users_own(choice: OptimizerChoice, model: nn.Module) -> torch.optim.Optimizer:
    if (here := os.getcwd()) not in sys.path:  # where Python itself looks under -m alone
        sys.path.append(here)
    try:
        kind = getattr(importlib.import_module(choice.source), choice.name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--optimizer {choice.text}: {error}; write {FORMS}") from error
    return _made(kind, choice, _trained(model))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _made(kind: Any, choice: OptimizerChoice, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    takes = inspect.signature(kind).parameters
    decay = {"weight_decay": choice.weight_decay} if "weight_decay" in takes else {}
    optimizer: torch.optim.Optimizer = kind(parameters, **({"lr": choice.rate} | decay | choice.settings))
    return optimizer


def _like_deepspeed(choice: OptimizerChoice, model: nn.Module) -> torch.optim.Optimizer:
    """Its Adam decouples weight decay by default, as AdamW. Its Muon steps what has two dimensions or
    more and no `embed` or `lm_head` in its name, and AdamW the rest.
    """
    if choice.name not in DEEPSPEED:
        raise ValueError(f"--optimizer {choice.text}: write deepspeed:NAME with {', '.join(DEEPSPEED)}")
    if choice.name != "muon":
        kind = torch.optim.Adagrad if choice.name == "adagrad" else torch.optim.AdamW
        return _made(kind, choice, _trained(model))
    from lbtrain.optim import Muon

    groups = [
        {"params": [p for n, p in model.named_parameters() if _is_matrix(n, p) is muon], "use_muon": muon}
        for muon in (True, False)
    ]
    return _made(Muon, choice, [group for group in groups if group["params"]])


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not any(word in name.lower() for word in ("embed", "lm_head"))


def check_package(package: str, remedy: str) -> None:
    """Raises RecipeError where it is not installed."""
    if importlib.util.find_spec(package) is None:
        raise RecipeError(f"{package} is not in this environment: {remedy}")
