"""Photos decoded, augmented and normalised per second of one core, ours against torchvision's ImageFolder and
transforms, and files indexed per second, ours against timm's readers; in turns.

    python -m bench.input                          every case, about two minutes; appends to results/input.csv
    python -m bench.input --cases train --rounds 3

The photos are 64 drawn ones (bench.photos), or those of a tar file with *.jpg (--photos), arranged as an
image folder in a temporary place; the rows of a tar file have its name in their case. The drawn ones are
about 597 x 481 pixels in 173 kB, 4.8 bits a pixel, as photos of COCO 2017 are: somewhat larger than
ImageNet's mean (about 470 x 390 in 110 kB), as densely coded.

train         224 x 224 out of a random box, flipped at random, normalised: data.augmentation=imagenet against
              RandomResizedCrop's own steps, both with the same boxes and flips, which ours draws inside the
              measured time
score         shorter side to 256, centre 224, normalised
train-large   the photos enlarged twice and coded at quality 90, as photos that were not made small for
              ImageNet would be
difference    measured with `train` and `train-large`: mean absolute difference of the pixels to
              torchvision's, in levels of 255
index-folder  100,000 files in 100 class folders; ours also takes their sizes, for the fingerprint
index-tar     100,000 members of a tar file, nothing kept from before; ours also requires it to be whole

Both decode with libjpeg-turbo, and most of the time left is its entropy decoding, which scaled decoding does
not save.
"""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from bench import parser, processor_ms, rows, typed
from bench.photos import jpegs
from lbtrain.data import open_source
from lbtrain.data.augment import draws, fractions
from lbtrain.data.folder import Files
from lbtrain.data.photos import PhotoSource
from lbtrain.data.stream import Block
from lbtrain.data.tar import make_index
from lbtrain.data.views import VIEWS, random_box
from lbtrain.recipe import DataConfig

COMMAND = "python -m bench.input"
BATCH = 16
FILES = 100_000
PEER = "torchvision ImageFolder + transforms"


def image_folder(photos: Path | None, root: Path, enlarge: int = 1) -> Path:
    """root/train/{even,odd} and a root/val of one photo each."""
    for number, (name, data) in enumerate(jpegs(photos)):
        for split in ("train", "val") if number < 2 else ("train",):
            path = root / split / ("even", "odd")[number % 2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(enlarged(data, enlarge) if enlarge > 1 else data)
    return root


def enlarged(data: bytes, times: int) -> bytes:
    image, buffer = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
    image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()


def source(root: Path, *, train: bool) -> PhotoSource:
    config = DataConfig(
        name="imagefolder", root=str(root), augmentation="imagenet" if train else "none", image_size=224
    )
    opened = open_source(config, train=True, seed=0)
    assert isinstance(opened, PhotoSource)
    return opened


def blocks(epoch: int, count: int) -> Iterator[Block]:
    for start in range(0, count, BATCH):
        indices = np.arange(start, min(start + BATCH, count))
        yield Block(np.full(len(indices), epoch), indices)


class Peer:
    """ImageFolder's reading and RandomResizedCrop's, RandomHorizontalFlip's, ToTensor's and Normalize's
    steps, in given boxes.
    """

    def __init__(self, root: Path, ours: PhotoSource, *, train: bool):
        self.folder, self.train = ImageFolder(str(root / "train")), train
        names = [ours.container.name(index) for index in range(len(ours))]
        self.order = [names.index(path) for path, _ in self.folder.samples]
        self.mean, self.std = (ours.mean.flatten() / 255).tolist(), (ours.std.flatten() / 255).tolist()

    def prepare(self, epoch: int) -> None:
        """The draws that ours makes for these photos in this epoch; not part of the measured time."""
        count = len(self.folder)
        block = Block(np.full(count, epoch), np.array(self.order))
        self.draws = fractions(draws(block, 0, VIEWS["imagenet"].draws)).T.tolist()

    def picture(self, number: int) -> tuple[Image.Image, int]:
        image, label = self.folder[number]
        if not self.train:
            return tv.center_crop(tv.resize(image, 256, InterpolationMode.BILINEAR), [224, 224]), label
        flip, *rest = self.draws[number]
        image = tv.resized_crop(
            image, *random_box(image.height, image.width, rest), [224, 224], InterpolationMode.BILINEAR
        )
        return (tv.hflip(image) if flip < 0.5 else image), label

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        samples = [self.picture(number) for number in numbers]
        pixels = [tv.normalize(tv.to_tensor(image), self.mean, self.std) for image, _ in samples]
        return torch.stack(pixels), torch.tensor([label for _, label in samples])


def images_per_core_second(load: Callable[[int], int], epoch: int) -> float:
    """Of processor time, so that others on the machine count as little as can be."""
    start = time.process_time()
    count = load(epoch)
    return count / (time.process_time() - start)


def in_turns(case: str, title: str, root: Path, rounds: int, command: str) -> rows.Row:
    train = case != "score"
    ours = source(root, train=train)
    peer = Peer(root, ours, train=train)

    def load_ours(epoch: int) -> int:
        return sum(len(ours.fetch(block)[1]) for block in blocks(epoch, len(ours)))

    def load_peer(epoch: int) -> int:
        return sum(
            len(peer.batch(range(first, min(first + BATCH, len(ours))))[1])
            for first in range(0, len(ours), BATCH)
        )

    mine, theirs = [], []
    for epoch in range(rounds + 1):
        peer.prepare(epoch)
        mine.append(images_per_core_second(load_ours, epoch))
        theirs.append(images_per_core_second(load_peer, epoch))
    return rows.paired(
        "input", title, PEER, mine[1:], theirs[1:], unit="images/s per core",
        target="" if case == "score" else ">=2.0", command=command,
    )  # fmt: skip


def difference(title: str, root: Path, rounds: int, command: str) -> rows.Row:
    ours = source(root, train=True)
    peer = Peer(root, ours, train=True)
    distances = []
    for epoch in range(min(rounds, 5)):
        peer.prepare(epoch)
        mine = torch.cat([ours.fetch(block)[0] for block in blocks(epoch, len(ours))]) * ours.std + ours.mean
        theirs = torch.stack(
            [tv.pil_to_tensor(peer.picture(number)[0]) for number in range(len(ours))]
        ).float()
        distances.append(float((mine[peer.order] - theirs).abs().mean()))
    case = f"difference of {title} to torchvision's pixels, mean absolute"
    return rows.single("input", case, distances, unit="levels of 255", command=command)


def index_in_turns(case: str, root: Path, rounds: int, command: str) -> rows.Row:
    """Files indexed per second of processor time. The first round warms up."""
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    files_in_folder, tar = many_files(root)
    opened: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "index-folder": (lambda: Files(files_in_folder), lambda: ReaderImageFolder(str(files_in_folder))),
        "index-tar": (lambda: make_index([tar]), lambda: ReaderImageInTar(str(tar), cache_tarinfo=False)),
    }
    mine, theirs = opened[case]
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for read, found in zip((mine, theirs), rates, strict=True):
            found.append(1e3 * FILES / processor_ms(read))
    warm = [found[1:] for found in rates]
    return rows.paired("input", case, "timm's reader", *warm, unit="files/s", target=">=1.0", command=command)


def many_files(root: Path) -> tuple[Path, Path]:
    """A folder of 100 classes, and a tar file of it."""
    for group in range(100):
        (root / f"n{group:08}").mkdir(parents=True)
        for number in range(FILES // 100):
            (root / f"n{group:08}" / f"n{group:08}_{number}.JPEG").write_bytes(b"x" * 300)
    with tarfile.open(root.with_suffix(".tar"), "w") as file:
        file.add(root, ".")
    return root, root.with_suffix(".tar")


def main() -> None:
    cases = ("train", "score", "train-large", "index-folder", "index-tar")
    flags = parser(COMMAND, __doc__, cases=cases, rounds=11)
    flags.add_argument("--photos", type=Path, help="A tar file with JPEG photos (default: drawn ones).")
    options = flags.parse_args()
    if options.photos and not options.photos.is_file():
        flags.error(f"--photos {options.photos}: no such file. Name a tar file with *.jpg in it")
    torch.set_num_threads(1)
    for case in options.cases:
        with tempfile.TemporaryDirectory() as place:
            if case.startswith("index-"):
                command = typed(flags, options, cases=case, photos=None)
                rows.write(
                    [index_in_turns(case, Path(place) / case, min(options.rounds, 5), command)], "input"
                )
            else:
                command = typed(flags, options, cases=case, photos=options.photos and options.photos.name)
                photo_case(case, Path(place), options, command)


def photo_case(case: str, place: Path, options: argparse.Namespace, command: str) -> None:
    """Writes the rows of a case over photos, each as soon as it is measured."""
    title = f"{case}, photos of {options.photos.name}" if options.photos else case
    root = image_folder(options.photos, place / case, enlarge=2 if case == "train-large" else 1)
    rows.write([in_turns(case, title, root, options.rounds, command)], "input")
    if case != "score":
        rows.write([difference(title, root, options.rounds, command)], "input")


if __name__ == "__main__":
    main()
