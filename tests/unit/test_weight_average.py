"""The average of the weights, by hand."""

import torch
from torch import nn

from lbtrain.techniques import WeightAverage


def averages(warmup: bool, steps: int) -> list[float]:
    """Of one weight that is 1, 2, 3 ... after the steps."""
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.9, warmup=warmup)
    found = []
    for step in range(1, steps + 1):
        nn.init.constant_(model.weight, float(step))
        average.update(step)
        found.append(average.state()["state_dict_ema"]["weight"].item())
    return found


def test_an_average_of_constant_memory():
    expected = [1.0]
    for weight in range(2, 7):
        expected.append(0.9 * expected[-1] + 0.1 * weight)
    torch.testing.assert_close(averages(False, 6), expected)


def test_a_warmup_lets_the_memory_grow():
    """timm: the decay of update number t (the first, which copies, aside) is 1 - t ** (-2/3), at most
    `decay`.
    """
    expected = [1.0]
    for step in range(2, 41):
        decay = min(0.9, 1 - step ** (-2 / 3))
        expected.append(decay * expected[-1] + (1 - decay) * step)
    torch.testing.assert_close(averages(True, 40), expected)
