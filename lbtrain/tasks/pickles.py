"""Pickles of arrays, as detectron2's model zoo has them, read without running what else a pickle may name."""

import pickle
from pathlib import Path
from typing import Any

_ARRAYS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only dicts of arrays are read")
        return super().find_class(module, name)


def load_arrays(path: Path) -> Any:
    """What a pickle of dicts, lists, numbers, texts and NumPy arrays holds. Raises UnpicklingError for one
    that names anything else, before that runs, and whatever pickle raises for damaged bytes.
    """
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()
