"""A host that has too little of something: one message with the remedy, and exit code 8."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lbtrain.data import open_source, parquet
from lbtrain.data.instances import Item, Preparation
from lbtrain.data.loading import _OrError, batches
from lbtrain.data.shapes import ShapesSource
from lbtrain.data.stream import Block, SampleStream
from lbtrain.errors import HostError, SaveFailed, naming_the_shortage
from lbtrain.recipe import DataConfig
from lbtrain.tasks.detectron2_models import MappedBatch
from tests.photos import encoded, natural

ROOT = Path(__file__).parents[2]


class KilledLater:
    """A source whose loader process the system ends at some moment after its first batch was asked for."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __len__(self) -> int:
        return 10**6

    def fetch(self, block: object) -> tuple[torch.Tensor, torch.Tensor]:
        threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return torch.zeros(8, 3, 64, 64), torch.zeros(8, dtype=torch.long)


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))])
def test_a_loader_process_that_is_killed_at_any_moment_is_said_in_one_line(seed):
    source = KilledLater(random.Random(seed).uniform(0, 0.03))
    blocks = [SampleStream(10**6, seed=0).block(8 * number, 8) for number in range(2000)]
    with pytest.raises(HostError, match=r"a loader process died .*data\.workers"):
        for _ in batches(source, blocks, workers=2, device=torch.device("cpu")):  # type: ignore[arg-type]
            pass


def test_no_room_for_the_locks_of_the_loader_is_named_with_its_remedy(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    blocks = [SampleStream(16, seed=0).block(0, 8)]
    with pytest.raises(HostError, match=r"No space left on device.*--shm-size=8g.*data\.workers=0"):
        list(batches(KilledLater(1), blocks, workers=1, device=torch.device("cpu")))  # type: ignore[arg-type]


class Instances:
    """As detectron2's: tensors in objects, in an object of their own."""

    def __init__(self) -> None:
        self._image_size, self._fields = (64, 64), {"gt_boxes": Boxes()}


class Boxes:
    def __init__(self) -> None:
        self.tensor = torch.zeros(1, 4)


SENT = {
    "classifier": (2, lambda: ((torch.zeros(2, 3), torch.zeros(2)), [])),
    "detector": (8, lambda: Preparation((96,), 0, flip=False, seed=0).batch(
        ShapesSource(2, 64, first=1), Item(Block.of(np.arange(2)), (96, 96))
    )),
    "detectron2": (2, lambda: MappedBatch([{"image": torch.zeros(3), "is": Instances()}], [0], [0])),
}  # fmt: skip


@pytest.mark.parametrize("kind", SENT)
def test_every_tensor_of_a_batch_finds_room_before_it_is_sent(kind, monkeypatch):
    """What a worker's own thread cannot send, it drops with a traceback, and its rank waits for ever."""
    count, batch = SENT[kind]
    shared: list[torch.Tensor] = []

    def share(tensor: torch.Tensor) -> None:
        if len(shared) == room:
            raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")
        shared.append(tensor)

    monkeypatch.setattr("lbtrain.data.loading.get_worker_info", lambda: "a worker")
    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    sent, room = _OrError({0: batch()}), count  # type: ignore[arg-type]
    assert sent[0][1] is None and len(set(map(id, shared))) == count
    for room in range(count):  # noqa: B007 (read by share)
        shared.clear()
        assert isinstance(sent[0][1], HostError) and "--shm-size=8g" in str(sent[0][1])


class NoRoom(KilledLater):
    """A source whose tensors find no room when its first loader process is started."""

    def __reduce__(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")


def test_no_room_for_what_loader_processes_share_is_named_with_its_remedy():
    blocks = [SampleStream(16, seed=0).block(0, 8)]
    with pytest.raises(HostError, match=r"No space left.*--shm-size=8g.*data\.workers"):
        list(batches(NoRoom(1), blocks, workers=1, device=torch.device("cpu")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n 4096"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n 4096"),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left"),
            "shm-size",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "more memory"),
    ],
)
def test_a_shortage_is_named_with_its_remedy(error, remedy):
    with pytest.raises(HostError, match=remedy), naming_the_shortage():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a mistake"),
        KeyError("x"),
        SaveFailed("shared memory"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "shared memory/a.jpg"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, naming_the_shortage():
        raise error
    assert raised.value is error


def test_too_few_open_files_end_a_run_with_the_remedy(tmp_path):
    command = [
        sys.executable,
        "recipes/digits/digits.py",
        f"run_dir={tmp_path}",
        "duration=4it",
        "data.workers=2",
    ]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )
    assert done.returncode == 8, done.stderr
    assert "[rank0]" not in done.stderr
    assert "Too many open files" in done.stderr and "ulimit -n 4096" in done.stderr


SHARDS = 24


def write_tars(root: Path) -> None:
    for number in range(SHARDS):
        with tarfile.open(root / f"train-{number:05}.tar", "w") as file:
            path = root / "ant" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(natural(number, 20, 20), "PNG"))
            file.add(path, f"ant/{number}.png")
            path.unlink()


def write_parquets(root: Path) -> None:
    for number in range(SHARDS):
        image = encoded(natural(number, 20, 20), "PNG")
        pq.write_table(pa.table({"image": [image], "label": [0]}), root / f"train-{number:05}.parquet")


@contextlib.contextmanager
def only_so_many_more_files(count: int) -> Iterator[None]:
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, limits[1]))
    for each in free:
        os.close(each)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("write", [write_tars, write_parquets])
def test_a_data_set_may_have_more_shards_than_a_process_open_files(tmp_path, monkeypatch, write):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "_FILES_KEPT", 4)
    root = tmp_path / "photos"
    root.mkdir()
    write(root)
    source = open_source(photos(root), train=True, seed=0)
    order = SampleStream(SHARDS, seed=0).block(0, 2 * SHARDS)
    with only_so_many_more_files(8):
        images, _ = source.fetch(order)
    assert not source.take_replaced()
    assert torch.equal(images, source.fetch(order)[0]) and len(set(images.sum((1, 2, 3)).tolist())) == SHARDS


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_an_image_that_a_host_is_too_small_to_read_is_not_broken(tmp_path, monkeypatch, number):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    (root / "train" / "ant").mkdir(parents=True)
    (root / "train" / "ant" / "0.png").write_bytes(encoded(natural(0, 20, 20), "PNG"))
    source = open_source(photos(root), train=True, seed=0)

    def refused(_):
        raise OSError(number, os.strerror(number), "train/ant/0.png")

    monkeypatch.setattr(source.container, "read", refused)
    with pytest.raises(HostError, match=os.strerror(number)):
        source.fetch(SampleStream(1, seed=0).block(0, 1))


def photos(root: Path) -> DataConfig:
    return DataConfig(
        name="imagefolder", root=str(root), image_size=16, on_error="replace", validation_root="none"
    )
