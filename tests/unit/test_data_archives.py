"""Archives that are cut or damaged at any place are rejected by name, or lose nothing: never read as shorter
ones.
"""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lbtrain.data.arrays import read_arrays
from lbtrain.data.parquet import ParquetRows
from lbtrain.data.tar import TarMembers
from lbtrain.errors import DataError, UserError

MEMBERS = [f"{group}/{number}.png" for group in ("ant", "bee") for number in range(5)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def whole_tar(path: Path, **options) -> bytes:
    with tarfile.open(path, "w", **options) as file:
        for number, name in enumerate(MEMBERS):
            member = tarfile.TarInfo(name)
            member.size = 100 + 300 * number
            file.addfile(member, io.BytesIO(bytes([number + 1]) * member.size))
    return path.read_bytes()


def contents(path: Path) -> list[tuple[bytes, int, bytes]]:
    found = TarMembers([path])
    return [(found.names[n], int(found.labels[n]), found.read(n)) for n in range(len(found))]


def headers(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        return [member.offset for member in file]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_no_flipped_bit_of_a_header_loses_an_image(tmp_path, form):
    path = tmp_path / "train.tar"
    whole = whole_tar(path, format=form)
    expected, random, rejected = contents(path), np.random.default_rng(form), 0
    for number in range(200):
        damaged, header = bytearray(whole), headers(whole)[1 + number % (len(MEMBERS) - 1)]
        damaged[header + int(random.integers(512))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        os.utime(path, ns=(number, number))
        try:
            assert contents(path) == expected
        except DataError as error:
            rejected += 1
            last = MEMBERS[headers(whole).index(header) - 1]
            assert f"cut or damaged behind {last}" in str(error) and error.exit_code == 6
    assert rejected >= 150


def test_a_tar_that_is_cut_anywhere_is_rejected_with_the_member_before(tmp_path):
    path = tmp_path / "train.tar"
    whole = whole_tar(path)
    expected, end = contents(path), len(whole.rstrip(b"\0"))
    marker = -(-end // 512) * 512
    starts = headers(whole)
    cuts = sorted(
        {*range(1, marker, 97), *starts[1:], *(start + 512 for start in starts), marker, marker + 511}
    )
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"not a plain, whole tar|cut or damaged|no images") as raised:
            TarMembers([path])
        if cut > starts[1]:
            last = MEMBERS[sum(start < cut - 511 for start in starts) - 1]
            assert f"cut or damaged behind {last}" in str(raised.value), cut
    path.write_bytes(whole[: marker + 512])
    assert contents(path) == expected


def test_joined_tars_and_data_behind_the_end_are_rejected(tmp_path):
    path = tmp_path / "train.tar"
    whole = whole_tar(path)
    for more in (whole, bytes(1 << 21) + b"x"):
        path.write_bytes(whole + more)
        with pytest.raises(DataError, match=r"behind bee/4\.png \(data follows the end-of-archive marker"):
            TarMembers([path])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (b"S", r"ant/3\.png is stored as a sparse file"),
        (b"D", "an incremental or multi-volume backup of GNU tar"),
        (b"M", "an incremental or multi-volume backup of GNU tar"),
    ],
)
def test_what_only_gnu_tar_unpacks_is_named(tmp_path, kind, said):
    path = tmp_path / "train.tar"
    whole = bytearray(whole_tar(path, format=tarfile.GNU_FORMAT))
    start = headers(bytes(whole))[3]
    whole[start + 156 : start + 157] = kind
    whole[start + 148 : start + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(whole[start : start + 512]))[0]
    path.write_bytes(whole)
    with pytest.raises(DataError, match=rf"train\.tar: {said}.*write the tar file anew$"):
        TarMembers([path])


def test_no_flipped_bit_of_a_file_of_strips_changes_an_image(tmp_path):
    path, random = tmp_path / "train.npz", np.random.default_rng(0)
    images = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(-1, 32, 3)).save(buffer, "WEBP", lossless=True)
    webp = buffer.getvalue()
    np.savez(path, webp=np.frombuffer(webp, np.uint8), offsets=[0, len(webp)], labels=np.arange(12) % 10)
    whole, rejected = path.read_bytes(), 0
    ends = [*range(300), *range(len(whole) - 600, len(whole))]
    for number in range(400):
        damaged = bytearray(whole)
        at = int(random.choice(ends)) if number % 2 else int(random.integers(len(whole)))
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            read, labels = read_arrays("cifar10", tmp_path, train=True)
            assert np.array_equal(read, images) and labels.tolist() == [*range(10), 0, 1]
        except DataError:
            rejected += 1
    assert rejected > 300


def test_a_parquet_file_that_is_cut_or_damaged_is_rejected_or_loses_nothing(tmp_path):
    path = tmp_path / "train-0.parquet"
    images = [{"bytes": bytes([number]) * 400, "path": ""} for number in range(12)]
    table = pa.table({"image": images, "label": list(range(12))})
    pq.write_table(
        table, path, row_group_size=3, write_page_checksum=True, compression="none", use_dictionary=False
    )
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for cut in range(1, len(whole), 101):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="not a whole parquet file"):
            ParquetRows([path])
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[int(random.integers(len(whole)))] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = ParquetRows([path])
            assert found.labels.tolist() == list(range(12))
            for number in range(12):
                try:
                    assert found.read(number) == images[number]["bytes"]
                except OSError:  # the rule for an image that cannot be read
                    assert found.name(number)
        except UserError as error:
            assert str(path) in str(error)
