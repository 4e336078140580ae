"""Training loops that are not ours, for benchmarks: each does as many steps as a turn has, then says so by a
`yield`.

Written as their libraries' own examples are: plain PyTorch (with DistributedDataParallel where there are
ranks), accelerate, DeepSpeed. timm's loop is timm's own code: `train_one_epoch` from the train.py of a
checkout that the caller names.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lbtrain.nn  # noqa: F401 registers its models with timm

CLASSES, POOL = 1000, 64


@dataclass(frozen=True)
class Job:
    """What every loop of a comparison does: `steps` a turn on `micro_batch_size` noise images per process,
    which lie on the device.
    """

    model: str
    image_size: int
    micro_batch_size: int
    steps: int
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False

    def build(self) -> nn.Module:
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return timm.create_model(self.model, num_classes=CLASSES).to(self.device).to(memory_format=order)

    def sgd(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        images = torch.randn(POOL, 3, self.image_size, self.image_size, device=self.device)
        labels = torch.randint(0, CLASSES, (POOL,), device=self.device)
        while True:
            picked = torch.randint(0, POOL, (self.micro_batch_size,), device=self.device)
            yield images[picked], labels[picked]

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16"
        )


Loop = Callable[[Job], Iterator[None]]


def by_hand(job: Job) -> Iterator[None]:
    """The loop that anyone would write; DistributedDataParallel with its defaults where there are ranks."""
    model: nn.Module = job.build()
    if dist.is_initialized() and dist.get_world_size() > 1:
        model = DistributedDataParallel(model)
    yield from _steps(job, model)


def without_exchange(job: Job) -> Iterator[None]:
    """The same on every rank for itself."""
    yield from _steps(job, job.build())


def _steps(job: Job, model: nn.Module) -> Iterator[None]:
    optimizer = job.sgd(model)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with job.autocast():
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    yield from _turns(job, step)


def _turns(job: Job, step: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Turns of `step`, which trains on images and labels and returns the loss."""
    batches = job.batches()
    while True:
        for _ in range(job.steps):
            loss = step(*next(batches))
        loss.item()
        yield


def accelerate_loop(job: Job) -> Iterator[None]:
    from accelerate import Accelerator

    accelerator = Accelerator(
        cpu=job.device == "cpu", mixed_precision="bf16" if job.precision == "bf16" else "no"
    )
    module = job.build()
    model, optimizer = accelerator.prepare(module, job.sgd(module))

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(model(images).float(), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    yield from _turns(job, step)


def deepspeed_loop(job: Job) -> Iterator[None]:
    import deepspeed

    if job.device == "cpu":  # its compilation takes minutes, and nothing here uses it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", "0")
    # `initialize` broadcasts weights in no other order.
    module = job.build().to(memory_format=torch.contiguous_format)
    config = {
        "train_micro_batch_size_per_gpu": job.micro_batch_size,
        "gradient_clipping": 0.0,
        "torch_autocast": {"enabled": job.precision == "bf16", "dtype": "bfloat16"},
    }
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=job.sgd(module), config=config, dist_init_required=False
    )
    if job.channels_last:
        module.to(memory_format=torch.channels_last)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(engine(images).float(), labels)
        engine.backward(loss)
        engine.step()
        return loss

    yield from _turns(job, step)


def timm_loop(checkout: Path, job: Job) -> Iterator[None]:
    """timm's own training loop. `checkout` is a clone of timm's repository, whose train.py no package has."""
    from timm.task import ClassificationTask

    spec = importlib.util.spec_from_file_location("timm_train", checkout / "train.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    device = torch.device(job.device)
    task = ClassificationTask(job.build(), nn.CrossEntropyLoss(), device=device, verbose=False)
    model = task.get_trainable_module()
    assert model is not None
    optimizer, batches = job.sgd(model), job.batches()
    args = script.parser.parse_args(
        ["--log-interval", "1000000", *(["--channels-last"] if job.channels_last else [])]
    )
    args.prefetcher, args.distributed, args.rank, args.world_size, args.local_rank = False, False, 0, 1, 0
    for epoch in iter(int, 1):
        turn = [next(batches) for _ in range(job.steps)]
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # as the script's main() has it
        try:
            script.train_one_epoch(
                epoch,
                task.get_trainable_module(),
                turn,
                optimizer,
                args,
                task=task,
                device=device,
                amp_autocast=job.autocast,
            )
        finally:
            torch.backends.cudnn.benchmark = before
        yield
