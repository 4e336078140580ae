"""The average of the weights, by hand."""

import torch
from torch import nn

from lbtrain import Recipe
from lbtrain.plan.plan import make_plan
from lbtrain.plan.report import rows
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


class Shared(nn.Module):
    """Weights and a buffer that have two names, and weights that have three."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(5)])
        self.layers[1].weight = self.layers[0].weight
        self.layers[3].weight = self.layers[4].weight = self.layers[2].weight
        self.register_buffer("count", torch.tensor(1))
        self.layers[0].register_buffer("seen", torch.zeros(2))
        self.layers[1].register_buffer("seen", self.layers[0].seen)


def test_what_has_several_names_moves_once_and_is_exchanged_once():
    model = Shared()
    average = WeightAverage(model, decay=0.9)
    average.update(1)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(1)
    second = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average.update(2)
    expected = {
        name: first[name] + (0.1 if tensor.is_floating_point() else 1) for name, tensor in second.items()
    }
    torch.testing.assert_close(average.state()["state_dict_ema"], expected)
    with average.in_place_of_the_weights():
        torch.testing.assert_close(dict(model.state_dict()), expected)
        torch.testing.assert_close(average.state()["state_dict_ema"], second, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), second, rtol=0, atol=0)
    again = WeightAverage(Shared(), decay=0.9)
    again.load(average.state())
    torch.testing.assert_close(again.state(), average.state(), rtol=0, atol=0)


def test_bounds_at_infinity_stay():
    """inf - inf is not a number, so that the average of a layer that clamps would have scored NaN."""
    model = nn.BatchNorm1d(1)
    model.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf]))
    average = WeightAverage(model, decay=0.9)
    for step in (1, 2, 3):
        model.bounds[1] = 7.0 - step if step > 1 else torch.inf  # as a calibration sets them
        average.update(step)
        assert average.state()["state_dict_ema"]["bounds"].equal(model.bounds)


def test_a_warmup_lets_the_memory_grow():
    """timm: the decay of update number t (the first, which copies, aside) is 1 - t ** (-2/3), at most
    `decay`.
    """
    expected = [1.0]
    for step in range(2, 41):
        decay = min(0.9, 1 - step ** (-2 / 3))
        expected.append(decay * expected[-1] + (1 - decay) * step)
    torch.testing.assert_close(averages(True, 40), expected)


def test_the_decay_follows_the_batch_and_the_plan_prints_the_rule():
    """Two steps at a batch decay by as much as one at twice the batch; a batch that grows is followed."""
    recipe = Recipe().vary(
        model=dict(name="cifar_resnet8"),
        batch_size=128,
        bn_batch_size=8,
        ema=dict(decay=0.99, base_batch_size=64),
        schedule=dict(batch_growth=["1ep:2"]),
    )
    plan = make_plan(recipe, 1)
    decays = [plan.ema_decay(phase) for phase in plan.phases]
    torch.testing.assert_close(decays, [0.99**2, 0.99**4])
    said = "decay 0.9801, 0.96059601: 0.99 at 64, to the power of the batch's factor"
    assert rows(plan)["average of the weights"] == said
    fixed = make_plan(recipe.vary(ema=dict(base_batch_size=0)), 1)
    assert {fixed.ema_decay(phase) for phase in fixed.phases} == {0.99}


def test_a_step_may_have_a_decay_of_its_own():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.9)
    found = []
    for step, decay in enumerate([0.9, 0.9, 0.5, 0.9], 1):
        nn.init.constant_(model.weight, float(step))
        average.update(step, decay)
        found.append(average.state()["state_dict_ema"]["weight"].item())
    torch.testing.assert_close(found, [1.0, 1.1, 2.05, 2.245])
