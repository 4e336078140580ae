"""Pickled weights are read without running what they name."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from lbtrain.tasks.pickles import load_arrays


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_dicts_of_arrays_are_read(tmp_path, protocol):
    weights = OrderedDict(
        conv1=np.arange(6, dtype=np.float32).reshape(2, 3), scale=np.float64(2), steps=[1, "a"]
    )
    content = {"model": weights, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    read = load_arrays(tmp_path / "x.pkl")
    assert read["model"].keys() == weights.keys() and np.array_equal(read["model"]["conv1"], weights["conv1"])


class _Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    "nested", [lambda bad: bad, lambda bad: {"model": {"w": bad}}, lambda bad: np.array([bad])]
)
def test_what_a_pickle_names_does_not_run(tmp_path, monkeypatch, nested):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(nested(_Runs())))
    with pytest.raises(
        pickle.UnpicklingError, match=r"it names (posix|nt)\.system, and only dicts of arrays"
    ):
        load_arrays(tmp_path / "x.pkl")
    assert not (tmp_path / "ran").exists()


def test_an_attribute_of_a_permitted_module_is_not_permitted(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04cnumpy\nload\n.")
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.load"):
        load_arrays(tmp_path / "x.pkl")
