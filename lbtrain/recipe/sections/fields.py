"""What a key of a recipe consists of: its type, its default, its meaning and its range."""

from dataclasses import field
from typing import Any

from lbtrain.errors import RecipeError
from lbtrain.recipe import tree
from lbtrain.recipe.durations import Duration

COCO_FORMAT = ("coco", "openimages")
"""Values of data.name that are read in COCO's format."""
OF_COCO = f"data.name={'|'.join(COCO_FORMAT)}"
DETECTION = "model.library=torchvision|detectron2"
PHOTOS = "data.name=imagenet|imagefolder"
SPLIT_PHOTOS = f"{PHOTOS}|{'|'.join(COCO_FORMAT)}"


def key(default: Any, help: str, **metadata: Any) -> Any:
    """A field with its meaning, its range (`choices`, `at_least`, `above`, `below`, `at_most`), whether it is
    a `path`, and the condition under which it acts (`needs`, see lbtrain.recipe.active).
    """
    metadata = {"help": help, **metadata}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def length(text: str, help: str, **metadata: Any) -> Any:
    """A field that holds a duration, such as 5ep."""
    return key(Duration.parse(text), help, **metadata)


class Unassignable:
    """A dataclass of keys whose values are set once. A later assignment would be checked by nothing: a wrong
    value, or a name that is no key, would go unnoticed.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            tree.spec_of(type(self), name, value)
        if name in vars(self):
            raise RecipeError(
                f"{name} is assigned, and nothing would check its value. Write recipe.vary(...), which "
                "returns a copy with differences."
            )
        super().__setattr__(name, value)
