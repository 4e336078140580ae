"""What a classifier's scores say over a whole split: top-1 and top-5 error, every class by itself, which
classes are taken for which, and whether its confidence can be believed.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

BINS = 15
"""Of confidence, equally wide (Guo et al. 2017, section 4.1 and table 1)."""


class ClassScores:
    """Sums over scored examples, on one rank until `reduce`. Every example counts once."""

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.top5_hits = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64, device=device)
        """Examples, summed confidence and hits of each bin."""

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """scores: (n, classes) in float32; labels: (n,)."""
        top = scores.topk(min(5, self.num_classes)).indices
        pairs = labels * self.num_classes + top[:, 0]
        self.confusion += pairs.bincount(minlength=self.num_classes**2).view_as(self.confusion)
        hits = (top == labels[:, None]).any(1)
        self.top5_hits += labels[hits].bincount(minlength=self.num_classes)
        self.loss += F.cross_entropy(scores, labels, reduction="sum").double()
        confidence = scores.softmax(1).amax(1).double()
        places = (confidence * BINS).long().clamp_(max=BINS - 1)
        values = torch.stack([torch.ones_like(confidence), confidence, (top[:, 0] == labels).double()])
        self.bins.index_add_(1, places, values)

    def reduce(self) -> None:
        """Adds up what all ranks have seen. Collective."""
        for tensor in (self.confusion, self.top5_hits, self.loss, self.bins):
            dist.all_reduce(tensor)

    def metrics(self) -> dict[str, float]:
        """Errors in percent, the mean cross-entropy in nats, and the expected calibration error in percent
        (Guo et al. 2017, equation 3). `top5_error` only of more than five classes.
        """
        examples = int(self.confusion.sum())
        found = {"examples": examples, "top1_error": 100 * (1 - int(self.confusion.trace()) / examples)}
        if self.num_classes > 5:
            found["top5_error"] = 100 * (1 - int(self.top5_hits.sum()) / examples)
        gap = (self.bins[1] - self.bins[2]).abs().sum() / examples
        return found | {"loss": float(self.loss) / examples, "calibration_error": 100 * float(gap)}

    def classes(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row per class: its examples, recall and precision in percent, and what it is most often taken
        for. None where a class has no example, or is never predicted.
        """
        matrix = self.confusion.cpu()
        rows = []
        for number, name in enumerate(names):
            hits, examples = int(matrix[number, number]), int(matrix[number].sum())
            predicted = int(matrix[:, number].sum())
            others = matrix[number].clone()
            others[number] = 0
            rows.append(
                {
                    "class": name,
                    "examples": examples,
                    "recall": 100 * hits / examples if examples else None,
                    "precision": 100 * hits / predicted if predicted else None,
                    "most_often_taken_for": names[int(others.argmax())] if others.any() else "",
                }
            )
        return rows
