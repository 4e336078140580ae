"""Runs on a host and prints one line of JSON about it.

probe.py host PORT ADDRESS         the host itself; ADDRESS is that of another one
probe.py pair RANK ADDRESS PORT    the time of an all-reduce with another host; the PORT of rank 0
"""

import datetime
import importlib.metadata
import io
import json
import os
import platform
import socket
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any

MARK = "lbtrain-doctor "
"""Stands before the report, which a login shell may surround with a banner."""
PACKAGES = ("torch", "torchvision", "timm", "deepspeed", "accelerate", "numpy")
MISSING = "missing"
"""In place of the version of a package that is not installed."""
_PAIR_BYTES = 4 << 20


def describe_host(port: int, peer: str) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "port_free": _port_free(port),
        "pair_port": next(filter(_port_free, range(port + 1, min(port + 100, 65536))), 0),
        "interface": _interface_towards(peer),
        "gloo_interface": os.environ.get("GLOO_SOCKET_IFNAME"),
        "gflops": matrix_gflops(),
        "images_per_s": loader_images_per_s(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def _interface_towards(peer: str) -> str:
    """The network interface that a packet to `peer` leaves by, from the kernel's choice of source address."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError:
            return "no route"
        ours = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                # SIOCGIFADDR: the address is at bytes 20 to 24 of struct ifreq.
                answer = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()))
            except OSError:
                continue
            if socket.inet_ntoa(answer[20:24]) == ours:
                return name
    return "unknown"


def matrix_gflops(*, size: int = 1024, repeats: int = 5) -> float:
    """Best rate of a single-precision matrix product on the first GPU, else the CPU, in GFLOP/s."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size * 8 if device == "cuda" else size
    left, right = torch.randn(2, size, size, device=device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def loader_images_per_s(*, seconds: float = 0.4) -> float:
    """Pictures of ImageNet's usual size that one process decodes, crops to 224 and turns into a tensor, a
    second.
    """
    import numpy as np
    import torch
    from PIL import Image

    # Noise at half size, enlarged: compresses to about 100 KB, as photographs of this size do.
    noise = np.random.default_rng(0).integers(0, 256, (188, 250, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((500, 375)).save(buffer, "JPEG", quality=90)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        picture = (
            Image.open(io.BytesIO(buffer.getvalue()))
            .convert("RGB")
            .resize((224, 224), box=(50, 50, 400, 350))
        )
        torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255)
        done += 1
    return done / (time.perf_counter() - start)


def pair_all_reduce_ms(rank: int, address: str, port: int) -> float:
    """Median time of a 4 MiB all-reduce between two hosts over gloo, in milliseconds."""
    import torch
    import torch.distributed as dist

    patience = datetime.timedelta(seconds=20)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=2, timeout=patience
    )
    values, times = torch.zeros(_PAIR_BYTES // 4), []
    for _ in range(7):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - start)
    dist.destroy_process_group()
    return 1000 * statistics.median(times[2:])


def main() -> None:
    kind, *words = sys.argv[1:]
    if kind == "host":
        found = describe_host(int(words[0]), words[1])
    else:
        found = {"ms": pair_all_reduce_ms(int(words[0]), words[1], int(words[2]))}
    print(MARK + json.dumps(found))


if __name__ == "__main__":
    # The folder of this script holds a package's modules, which must not hide the standard library's.
    sys.path = [
        place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent
    ]
    main()
