"""Rows in the services of trackers: through accelerate's classes always, and with each package where it is
installed.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from lbtrain.errors import RecipeError
from lbtrain.runs.records import Records
from lbtrain.runs.rows import TrainRow
from lbtrain.runs.trackers import Trackers


def row(step: int) -> TrainRow:
    return TrainRow(
        step=step, examples=48 * step, epoch=0.5, batch_size=48, lr=0.1, loss=1.5 / step,
        images_per_sec=100.0, data_wait=0.0, skipped_steps=0,
    )  # fmt: skip


def write(run_dir, name: str, *steps: int) -> None:
    run_dir.mkdir(exist_ok=True)
    records = Records(
        run_dir, enabled=True, on_screen=False, total_examples=999, trackers=[name], config={"seed": "3"}
    )
    for step in steps:
        records.write(row(step))
    records.close()


class FakeWandb(ModuleType):
    """As much of the package as accelerate's tracker calls."""

    def __init__(self, fails_at: int = 0, refuses: str = ""):
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.seen: list[Any] = []
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.seen.append(values))
        self.fails_at, self.refuses = fails_at, refuses

    def init(self, **options: str) -> "FakeWandb":
        if self.refuses:
            raise ValueError(self.refuses)
        self.seen.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("the service is gone")
        self.seen.append((step, values["train/loss"]))

    def finish(self) -> None:
        self.seen.append("finish")


def test_every_row_reaches_a_tracker_whatever_the_engine(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    from accelerate.state import PartialState

    PartialState._reset_state()  # as under every engine but accelerate
    write(tmp_path / "birds", "wandb", 1, 2)
    place = {"project": "lbtrain", "name": "birds", "dir": str(tmp_path / "birds")}
    assert fake.seen == [place, {"seed": "3"}, (1, 1.5), (2, 0.75), "finish"]
    assert not (tmp_path / "birds/tensorboard").exists()
    assert PartialState._shared_state == {} and not dist.is_initialized()


def test_the_project_is_the_trackers_own_variable(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "photos")
    write(tmp_path / "birds", "wandb")
    assert fake.seen[0]["project"] == "photos" and fake.seen[0]["name"] == "birds"


def test_a_tracker_that_cannot_be_started_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses="No API key configured.\nLog in."))
    with pytest.raises(RecipeError) as error:
        Trackers(["tensorboard", "wandb"], tmp_path, {})
    assert str(error.value) == "log.trackers=wandb cannot be started: No API key configured."


def test_a_run_goes_on_without_a_tracker_that_fails(tmp_path, monkeypatch, capsys):
    fake = FakeWandb(fails_at=2)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write(tmp_path / "birds", "wandb", 1, 2, 3)
    assert fake.seen[2:] == [(1, 1.5)]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "log.trackers=wandb gets nothing from step 2 on: the service is gone."
    assert len((tmp_path / "birds/metrics.jsonl").read_text().splitlines()) == 3


def test_a_tracker_that_cannot_be_closed_hides_no_result(tmp_path, monkeypatch, capsys):
    class Broken(FakeWandb):
        def finish(self) -> None:
            raise ConnectionError("the service is gone")

    monkeypatch.setitem(sys.modules, "wandb", Broken())
    write(tmp_path / "birds", "wandb", 1)
    assert capsys.readouterr().err.splitlines() == ["log.trackers=wandb was not closed: the service is gone."]


def test_wandb_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(tmp_path / "birds", "wandb", 1, 2)
    assert list((tmp_path / "birds/wandb").glob("offline-run-*/run-*.wandb"))


def test_mlflow_itself(tmp_path, monkeypatch):
    mlflow: Any = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    write(tmp_path / "birds", "mlflow", 1, 2)
    (found,) = mlflow.search_runs(experiment_names=["lbtrain"], output_format="list")
    assert found.info.run_name == "birds" and found.data.params["seed"] == "3"
    assert found.data.metrics["train/loss"] == 0.75


def test_trackio_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio: Any = pytest.importorskip("trackio")
    write(tmp_path / "birds", "trackio", 1, 2)
    (found,) = trackio.Api().runs("lbtrain")
    assert found.name == "birds" and found.config["seed"] == "3"
