"""The part of TensorFlow 1 that the LAMB author's optimization.py calls, on numpy arrays: operations are
computed at once instead of being put into a graph.
"""

import types
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Variable:
    """A named array of which arithmetic takes the value."""

    __array_priority__ = 1000

    def __init__(self, name: str, value: NDArray[Any]):
        self.name, self.value, self.shape = (
            name,
            value.copy(),
            types.SimpleNamespace(as_list=lambda: value.shape),
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return self.value

    def assign(self, value: Any) -> None:
        self.value = np.array(value, dtype=self.value.dtype)

    def __add__(self, other: Any) -> Any:
        return self.value + other

    def __sub__(self, other: Any) -> Any:
        return self.value - other

    def __rmul__(self, other: Any) -> Any:
        return other * self.value


class Graph:
    """The variables that are trained, their gradients (set before each step), and those that an optimizer
    makes.
    """

    def __init__(self, weights: dict[str, NDArray[Any]]):
        self.variables = [Variable(name, value) for name, value in weights.items()]
        self.gradients: list[NDArray[Any]] = []
        self.made: dict[str, Variable] = {"global_step": Variable("global_step", np.zeros(()))}
        self.modules = self._modules()

    def get_variable(self, name: str, shape: Any, **_: Any) -> Variable:
        return self.made.setdefault(name, Variable(name, np.zeros(shape)))

    def _modules(self) -> dict[str, types.ModuleType]:
        tf = types.ModuleType("tensorflow")
        optimizer = type("Optimizer", (), {"__init__": lambda self, *_: None})
        contents = dict(
            train=types.SimpleNamespace(
                Optimizer=optimizer, get_or_create_global_step=lambda: self.made["global_step"]
            ),
            logging=types.SimpleNamespace(info=lambda *_: None),
            float32=np.float64, int32=np.int64,
            constant=lambda value, **_: value,
            cast=lambda value, dtype: np.asarray(value, dtype),
            cond=lambda test, then, other: then() if test else other(),
            less_equal=np.less_equal, multiply=np.multiply, sqrt=np.sqrt, square=np.square,
            zeros_initializer=lambda: None,
            get_variable=self.get_variable,
            trainable_variables=lambda: self.variables,
            gradients=lambda *_: self.gradients,
            clip_by_global_norm=clip_by_global_norm,
            group=lambda *_, **__: None,
        )  # fmt: skip
        vars(tf).update(contents)
        modules = {"tensorflow": tf}
        for name in ("python", "python__ops"):
            modules[f"tensorflow__{name}"] = types.ModuleType(name)
        ops = modules["tensorflow__python__ops"]
        for name, content in {
            "array_ops": {"where": np.where},
            "linalg_ops": {"norm": lambda value, ord: np.linalg.norm(np.ravel(value), ord)},
            "math_ops": {"greater": np.greater},
        }.items():
            part = modules[f"tensorflow__python__ops__{name}"] = types.ModuleType(name)
            vars(part).update(content)
            setattr(ops, name, part)
        return modules


def clip_by_global_norm(gradients: list[NDArray[Any]], clip_norm: float) -> tuple[list[NDArray[Any]], float]:
    """TensorFlow's formula: t * clip_norm / max(global_norm, clip_norm)."""
    norm = float(np.sqrt(sum(np.square(g).sum() for g in gradients)))
    return [g * clip_norm / max(norm, clip_norm) for g in gradients], norm


tensorflow = Graph
