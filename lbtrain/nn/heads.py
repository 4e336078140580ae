"""The classifier of a network, where the network says which of its layers it is (as timm's do)."""

from typing import Any

from torch import nn


def head_names(model: nn.Module) -> set[str]:
    """Names of the parameters of the classifier; empty for a model without `get_classifier`."""
    if not hasattr(model, "get_classifier"):
        return set()
    head: Any = model.get_classifier()  # type: ignore[operator]
    modules = head if isinstance(head, tuple | list) else (head,)
    own = {id(p) for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in own}
