"""Bad images of every kind: each works, or gives one clear error with its path, or is replaced by the
documented rule and counted.
"""

import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from lbtrain.data import batches, open_source
from lbtrain.data.layouts import _open_splits
from lbtrain.data.loading import replaced_images
from lbtrain.data.stream import Block
from lbtrain.data.views import VIEWS
from lbtrain.errors import DataError, HostError
from lbtrain.plan.plan import make_plan
from lbtrain.recipe import DataConfig, Recipe
from lbtrain.tasks.classification import Classification
from lbtrain.techniques import AdaptiveBatches
from tests.faults.jobs import Job, left_behind, wait_until
from tests.photos import encoded, natural, write_folder
from tests.unit.keys.rooms import process_group_of_one

CPU = torch.device("cpu")


def block(*indices: int) -> Block:
    return Block(np.zeros(len(indices), np.int64), np.array(indices))


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(
        **(dict(name="imagefolder", root=str(root), augmentation="imagenet", image_size=16) | changes)
    )


@pytest.fixture
def root(tmp_path) -> Path:
    """8 photos to train on: ant/0..4, bee/0..2."""
    _open_splits.cache_clear()
    replaced_images.take()
    return write_folder(tmp_path / "photos")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 black pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


def jpeg(height: int = 70, width: int = 90, **options) -> bytes:
    return encoded(natural(9, height, width), "JPEG", **options)


def large_jpeg(header_of: tuple[int, int]) -> bytes:
    """A small JPEG whose header claims to be larger."""
    data, (height, width) = jpeg(), header_of
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


BAD = {
    "zero bytes": (b"", "the file is empty"),
    "noise": (np.random.default_rng(0).bytes(5000), "cannot identify image file"),
    "text": (b"<html>404 Not Found</html>", "cannot identify image file"),
    "half a JPEG": (jpeg()[: len(jpeg()) // 2], "truncated"),
    "the header of a JPEG": (jpeg()[:200], "cannot be read as an image"),
    "half a PNG": (encoded(natural(0, 60, 60), "PNG")[:2000], "cannot be read as an image"),
    "decompression bomb": (bomb(), "decompression bomb"),
    "JPEG bomb": (large_jpeg((60_000, 60_000)), "decompression bomb"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("augmentation", ["imagenet", "none"])
def test_a_bad_image_stops_with_its_path_or_is_replaced_and_counted(root, kind, augmentation, capsys):
    data, reason = BAD[kind]
    path = root / "train" / "ant" / "3.JPEG"
    whole = open_source(config(root, augmentation=augmentation), train=True, seed=1).fetch(block(2, 3, 4))
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=f"^{path}: cannot be read as an image .*Repair or .*data.on_error=replace$"
    ):
        open_source(config(root, augmentation=augmentation), train=True, seed=1).fetch(block(2, 3, 4))
    source = open_source(config(root, augmentation=augmentation, on_error="replace"), train=True, seed=1)
    images, labels = next(batches(source, [block(2, 3, 4)], workers=0, device=CPU))
    assert torch.equal(images[[0, 2]], whole[0][[0, 2]]) and labels.tolist() == [0, 0, 0]
    assert torch.equal(images[1], whole[0][2])  # the next in the data set, seen as it is in this epoch
    said = capsys.readouterr().err
    assert (
        said.startswith(f"replaced: {path}: cannot be read")
        and reason in said
        and said.endswith("ant/4.JPEG\n")
    )
    assert replaced_images.take() == 1 and replaced_images.take() == 0


ODD = {
    "CMYK": saved(Image.fromarray(natural(1, 50, 60)).convert("CMYK"), "JPEG"),
    "grey": saved(Image.fromarray(natural(1, 50, 60)).convert("L"), "JPEG"),
    "progressive": jpeg(50, 60, progressive=True),
    "one pixel JPEG": jpeg(1, 1),
    "one pixel PNG": encoded(natural(1, 1, 1), "PNG"),
    "20,000 pixels wide": jpeg(40, 20_000),
    "20,000 pixels high": jpeg(20_000, 40),
    "a line of 20,000 pixels": encoded(natural(1, 1, 20_000), "PNG"),
    "palette": saved(Image.fromarray(natural(1, 50, 60)).quantize(16), "PNG"),
    "palette with transparency": saved(
        Image.fromarray(natural(1, 50, 60)).quantize(16), "PNG", transparency=bytes(16)
    ),
    "transparent": saved(Image.fromarray(natural(1, 50, 60)).convert("RGBA"), "PNG"),
    "16 bits": saved(Image.fromarray(natural(1, 50, 60)[:, :, 0].astype(np.uint16) * 257), "PNG"),
    "black and white": saved(Image.fromarray(natural(1, 50, 60)).convert("1"), "PNG"),
    "a PNG called JPEG": encoded(natural(1, 50, 60), "PNG"),
    "bytes behind its end": jpeg() + b"more",
    "odd EXIF": jpeg(exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"),
    "WebP": saved(Image.fromarray(natural(1, 50, 60)), "WEBP"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_image_works_in_every_view(root, kind):
    (root / "train" / "ant" / "3.JPEG").write_bytes(ODD[kind])
    for view in VIEWS:
        images, _ = open_source(config(root, augmentation=view), train=True, seed=1).fetch(block(3))
        assert images.shape == (1, 3, 16, 16) and torch.all(images.isfinite())


def test_the_colors_of_odd_images_are_pillows(root):
    for kind in ("CMYK", "grey", "palette", "transparent", "progressive"):
        (root / "train" / "ant" / "3.JPEG").write_bytes(ODD[kind])
        source = open_source(config(root, augmentation="none", image_size=28), train=True, seed=1)
        expected = Image.open(io.BytesIO(ODD[kind])).convert("RGB")
        short = min(expected.size)
        expected = expected.resize(
            (32 * expected.width // short, 32 * expected.height // short), Image.Resampling.BILINEAR
        )
        left = round((expected.width - 28) / 2)
        pixels = np.asarray(expected.crop((left, 2, left + 28, 30)), np.float32)
        ours = (source.fetch(block(3))[0] * source.std + source.mean)[0].permute(1, 2, 0)
        assert float((ours - torch.from_numpy(pixels)).abs().mean()) < 0.3, kind


def test_a_file_that_vanishes_while_the_run_goes_on(root):
    source = open_source(config(root), train=True, seed=1)
    source.fetch(block(3))
    (root / "train" / "ant" / "3.JPEG").unlink()
    with pytest.raises(
        DataError, match=r"ant/3\.JPEG: cannot be read as an image \(No such file or directory\)"
    ):
        source.fetch(block(3))


def test_a_disk_that_vanishes_is_no_blemish_to_replace(root):
    source = open_source(config(root, on_error="replace"), train=True, seed=1)
    for path in (root / "train").rglob("*.*"):
        path.unlink()
    with pytest.raises(DataError, match="nor any of the 15 after it: is the data still there"):
        source.fetch(block(3))


def test_a_tar_cut_off_while_the_run_goes_on(root, tmp_path, monkeypatch):
    import tarfile

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as file:
            file.add(root / split, ".")
    source = open_source(config(tmp_path), train=True, seed=1)
    expected = source.fetch(block(*range(8)))[0]
    os.truncate(tmp_path / "train.tar", (tmp_path / "train.tar").stat().st_size // 2)
    lost = []
    for index in range(8):
        try:
            assert torch.equal(source.fetch(block(index))[0][0], expected[index])
        except DataError as error:
            lost.append(str(error))
    assert 0 < len(lost) < 8 and all("train.tar:" in message for message in lost)


def test_a_label_that_is_no_class(root, tmp_path):
    photo = jpeg()
    for name, labels in (("train", [0, 1, 7, 1]), ("validation", [0, 1])):
        table = pa.table({"image": [photo] * len(labels), "label": labels})
        notes = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}})}
        pq.write_table(table.replace_schema_metadata(notes), tmp_path / f"{name}-0.parquet")
    source = open_source(config(tmp_path), train=True, seed=1)
    assert source.fetch(block(0, 1, 3))[1].tolist() == [0, 1, 1]
    with pytest.raises(
        DataError, match=r"train-0\.parquet: row 2 of row group 0: label 7, but there are 2 classes"
    ):
        source.fetch(block(2))
    assert open_source(config(tmp_path, on_error="replace"), train=True, seed=1).fetch(block(2))[
        1
    ].tolist() == [1]


def test_a_row_without_an_image(tmp_path):
    _open_splits.cache_clear()
    for name in ("train", "validation"):
        table = pa.table(
            {
                "image": [{"bytes": jpeg(), "path": "a.jpg"}, {"bytes": None, "path": "gone.jpg"}],
                "label": [0, 1],
            }
        )
        pq.write_table(table, tmp_path / f"{name}-0.parquet")
    with pytest.raises(
        DataError, match=r"row 1 of row group 0: cannot be read as an image \(the row holds no image bytes"
    ):
        open_source(config(tmp_path), train=True, seed=1).fetch(block(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_waits_for_its_turn_and_arrives_without_a_traceback(root, workers):
    (root / "train" / "ant" / "3.JPEG").write_bytes(b"")
    source = open_source(config(root), train=True, seed=1)
    loaded = batches(source, [block(0, 1), block(2), block(3, 4), block(5)], workers=workers, device=CPU)
    assert [len(next(loaded)[1]) for _ in range(2)] == [2, 1]
    with pytest.raises(DataError) as raised:
        next(loaded)
    assert str(raised.value).startswith(
        f"{root}/train/ant/3.JPEG: cannot be read"
    ) and "Traceback" not in str(raised.value)


def test_replacements_do_not_depend_on_blocks_and_workers(root):
    for name in ("ant/3.JPEG", "ant/4.JPEG", "bee/2.png"):  # two in a row, and the last of the data set
        (root / "train" / name).write_bytes(b"broken")
    varied = dict(auto_augment="rand-m9-mstd0.5-inc1", random_erasing=1.0)
    source = open_source(config(root, on_error="replace", **varied), train=True, seed=1)
    images, labels = source.fetch(block(*range(8)))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
    assert (
        torch.equal(images[3], images[5])
        and torch.equal(images[4], images[5])
        and torch.equal(images[7], images[0])
    )
    assert len(source.take_replaced()) == 3
    for workers in (0, 2):
        loaded = batches(source, [block(4, 7), block(3), block(0, 5)], workers=workers, device=CPU)
        assert torch.equal(torch.cat([part for part, _ in loaded]), images[[4, 7, 3, 0, 5]])
        assert replaced_images.take() == 3


def classifier(root: Path, **changes) -> Recipe:
    """An epoch is a step of 8."""
    data = dict(
        name="imagefolder", root=str(root), augmentation="imagenet", image_size=16, on_error="replace"
    )
    return Recipe().vary(
        model=dict(name="cifar_resnet8"), batch_size=8, bn_batch_size=8, data=data, **changes
    )


@pytest.mark.parametrize("loss", [dict(), dict(mixup=0.2)], ids=["plain", "mixup"])
def test_a_replacement_counts_once_whichever_ranks_load_the_image(root, loss, capfd):
    for name in ("ant/3.JPEG", "bee/2.png"):
        (root / "train" / name).write_bytes(b"broken")
    for world_size in (1, 2, 4):
        for rank in range(world_size):
            task = Classification(classifier(root, loss=loss), CPU)
            next(task.batches(start=8, micro_batch_size=8 // world_size, rank=rank, world_size=world_size))
        assert replaced_images.take() == 2
        assert capfd.readouterr().err.count("replaced: ") == 2


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_broken_image_is_not_scored_and_no_other_one_twice(root, split, capfd):
    """As if it were not there; bee/0 is what would stand in its place."""
    rest = "ant" if split == "val" else "bee"
    broken = sorted((root / split / rest).iterdir())[-1]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    metrics = []
    for remove in (False, True):
        broken.unlink() if remove else broken.write_bytes(b"broken")
        _open_splits.cache_clear()
        task = Classification(classifier(root), CPU)
        with process_group_of_one():
            said = task.report(model, train=split == "train", micro_batch_size=2, rank=0, world_size=1)
            metrics.append(said.metrics)
            if split == "val":
                plain = task.evaluate(model, micro_batch_size=2, rank=0, world_size=1)
                assert plain.metrics["loss"] == pytest.approx(said.metrics["loss"])
    assert metrics[0] == pytest.approx(metrics[1])
    assert replaced_images.take() == 1 + (split == "val")
    assert capfd.readouterr().err.startswith(f"not scored: {broken}: cannot be read")


def test_nothing_counts_while_the_batch_is_measured_that_comes_next(root, capfd):
    (root / "train" / "ant" / "3.JPEG").write_bytes(b"broken")
    recipe = classifier(root, absa=dict(max_batch_size=16))
    plan, task = make_plan(recipe, 1), Classification(recipe, CPU)
    engine = SimpleNamespace(device=CPU, rank=0, world_size=1, mean=lambda value: value)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    AdaptiveBatches(plan, model, task, engine, SimpleNamespace()).eigenvalue(8)
    assert replaced_images.take() == 0 and "replaced: " not in capfd.readouterr().err
    next(task.batches(start=8, micro_batch_size=8, rank=0, world_size=1))
    assert replaced_images.take() == 1


class Killed:
    """A source whose process the system ends."""

    def __len__(self) -> int:
        return 1

    def fetch(self, block: Block):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_said_in_one_line():
    with pytest.raises(HostError, match=r"a loader process died .*is there memory for data\.workers"):
        next(batches(Killed(), [block(0)], workers=1, device=CPU))


RANK = """
import os, signal
from lbtrain.data.loading import in_order

class Own:
    def __getitem__(self, key):
        return os.getpid()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    for worker in in_order(Own(), iter(range(1000)), workers=1):
        print(worker, flush=True)
        input()
"""


def test_a_loader_process_outlives_the_signals_to_its_rank_but_not_the_rank(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, str(tmp_path / "rank.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as rank:
        assert rank.stdin and rank.stdout
        worker = os.pidfd_open(int(rank.stdout.readline()))
        for number in (signal.SIGINT, signal.SIGUSR1):
            os.killpg(rank.pid, number)
        assert not select.select([worker], [], [], 0.5)[0]
        rank.stdin.write("\n")
        rank.stdin.flush()
        assert rank.stdout.readline().strip().isdigit()
        rank.kill()
        assert select.select([worker], [], [], 30)[0], "the rank is gone, its worker is not"


WORDS = [
    "data.name=imagefolder",
    "data.image_size=16",
    "data.augmentation=imagenet",
    "batch_size=8",
    "bn_batch_size=4",
    "micro_batch_size=4",
    "duration=4it",
    "evaluate_every=4it",
    "checkpoint.every=4it",
]


@pytest.mark.parametrize("workers", [0, 2])
def test_on_two_ranks_both_end_with_the_path_and_the_code_of_bad_data(root, tmp_path, workers):
    path = root / "train" / "ant" / "3.JPEG"
    path.write_bytes(jpeg()[:500])
    job = Job.start(tmp_path / "job", *WORDS, f"data.root={root}", f"data.workers={workers}")
    assert job.codes(90) == [6, 6], job.screen
    assert f"error: {path}: cannot be read as an image" in job.screen and "Traceback" not in job.screen, (
        job.screen
    )
    assert wait_until(lambda: not left_behind(tmp_path / "job"), 15), left_behind(tmp_path / "job")


def test_two_ranks_and_one_replace_alike_and_count_every_image_once(root, tmp_path):
    for name in ("train/ant/3.JPEG", "val/bee/0.JPEG"):
        (root / name).write_bytes(b"broken")
    losses = []
    for world_size, workers in ((1, 0), (2, 1)):
        words = [*WORDS, f"data.root={root}", f"data.workers={workers}", "data.on_error=replace"]
        job = Job.start(tmp_path / f"{world_size}", *words, world_size=world_size)
        assert job.codes(90) == [0] * world_size, job.screen
        rows = [
            json.loads(line)
            for line in (tmp_path / f"{world_size}/run/metrics.jsonl").read_text().splitlines()
        ]
        losses.append([row["loss"] for row in rows if row["kind"] == "train"])
        assert [row["replaced_images"] for row in rows] == [
            1,
            1,
            1,
            1,
            1,
        ]  # batches are whole epochs here; then the evaluation
        assert json.loads((tmp_path / f"{world_size}/run/summary.json").read_text())["replaced_images"] == 5
        assert job.screen.count("replaced: ") == 4 and job.screen.count("not scored: ") == 1
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
