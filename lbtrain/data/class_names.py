"""Names of the classes of a data set, in the order of their numbers."""

from collections.abc import Sequence

from lbtrain.data.index import SplitIndex

_DIGITS = tuple(map(str, range(10)))
_KNOWN = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ),
}  # fmt: skip


def class_names(name: str, index: SplitIndex, num_classes: int) -> Sequence[str]:
    """Those of the data set's own files, those that are known of `name`, or else the numbers."""
    names = index.classes or _KNOWN.get(name) or tuple(map(str, range(num_classes)))
    return list(map(str, names))
