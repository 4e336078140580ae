"""Matrices and small networks whose curvature is known."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Matrix:
    """A symmetric matrix with given eigenvalues and random eigenvectors, known by its products."""

    def __init__(self, eigenvalues: Tensor, seed: int = 0):
        self.size, self.device, self.products = len(eigenvalues), torch.device("cpu"), 0
        generator = torch.Generator().manual_seed(seed)
        rotation = torch.linalg.qr(
            torch.randn(self.size, self.size, generator=generator, dtype=torch.float64)
        ).Q
        self.whole = (rotation * eigenvalues.double()) @ rotation.T

    def hessian_vector(self, vector: Tensor) -> Tensor:
        self.products += 1
        return (self.whole @ vector.double()).float()


def small_net() -> nn.Module:
    """Convolution, batch norm, a linear layer and dropout: 67 parameters."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(3, 4),
    )
    with torch.no_grad():
        net[1].running_mean.normal_()
        net[1].weight.normal_(1, 0.2)
    return net


def small_batches(count: int, images: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(images, 1, 5, 5, generator=generator),
            torch.randint(0, 4, (images,), generator=generator),
        )
        for _ in range(count)
    ]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)
