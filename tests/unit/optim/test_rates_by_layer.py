"""Learning rates of their own for layers, the classifier and Muon's AdamW; moments that follow the batch."""

import pytest
import timm
import torch

from lbtrain import Recipe
from lbtrain.engines.window import WindowedEngine
from lbtrain.errors import RecipeError
from lbtrain.optim import create_optimizer, layer_lr_scales, parameter_groups
from lbtrain.plan.scaling import scaled_optimizer
from lbtrain.recipe import OptimizerConfig


def tiny_vit() -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2, embed_dim=12, num_heads=2
    )


def test_layer_decay_counts_layers_as_timm_does():
    model = tiny_vit()
    scales = layer_lr_scales(model, 0.5, 1.0)
    assert scales["head.weight"] == 1.0
    blocks = [scales[f"blocks.{block}.mlp.fc1.weight"] for block in (0, 1)]
    assert blocks[1] == 2 * blocks[0] and scales["patch_embed.proj.weight"] == blocks[0] / 2
    assert set(scales) == {name for name, _ in model.named_parameters()}


def test_the_classifier_has_a_rate_of_its_own():
    scales = layer_lr_scales(tiny_vit(), 1.0, 10.0)
    assert scales == {"head.weight": 10.0, "head.bias": 10.0}
    both = layer_lr_scales(tiny_vit(), 0.5, 10.0)
    assert both["head.weight"] == 10.0 and both["patch_embed.proj.weight"] < 1


def test_a_model_without_layers_or_classifier_is_rejected():
    with pytest.raises(ValueError, match="group_matcher"):
        layer_lr_scales(torch.nn.Linear(3, 3), 0.5, 1.0)
    with pytest.raises(ValueError, match="get_classifier"):
        layer_lr_scales(torch.nn.Linear(3, 3), 1.0, 2.0)


def test_groups_differ_by_their_scale_and_each_parameter_is_in_one():
    model = tiny_vit()
    groups = parameter_groups(model, weight_decay=0.1, lr_scales=layer_lr_scales(model, 0.5, 1.0))
    names = [name for group in groups for name in group["param_names"]]
    assert len(names) == len(set(names)) == len(list(model.parameters()))
    assert len({group["lr_scale"] for group in groups}) == 4


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb", "adamw", "nadamw", "muon"])
def test_every_optimizer_takes_them(name):
    optimizer = create_optimizer(OptimizerConfig(name=name, head_lr_ratio=3.0), tiny_vit())
    heads = [group for group in optimizer.param_groups if "head.weight" in group["param_names"]]
    assert [group["lr_scale"] for group in heads] == [3.0]


def test_the_engine_sets_the_schedules_rate_times_the_scale():
    class Engine(WindowedEngine):
        """An engine without a process group, stopped before it updates anything."""

        def __init__(self, optimizer: torch.optim.Optimizer):
            self.optimizer, self._backwards, self._accumulation = optimizer, 0, 0

        def _may_update(self) -> bool:
            raise StopIteration

    model = torch.nn.Linear(2, 2)
    groups = [{"params": [model.weight], "lr_scale": 0.5}, {"params": [model.bias]}]
    engine = Engine(torch.optim.SGD(groups, lr=0.0))
    with pytest.raises(StopIteration):
        engine.step(0.1)
    assert [group["lr"] for group in engine.optimizer.param_groups] == [0.05, 0.1]


def test_muon_leaves_the_first_layer_head_norms_and_biases_to_adamw():
    model = tiny_vit()
    optimizer = create_optimizer(OptimizerConfig(name="muon", adamw_lr_ratio=0.1), model)
    muons = {n for group in optimizer.param_groups if group["use_muon"] for n in group["param_names"]}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert muons == {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in layers}
    assert {group["lr_scale"] for group in optimizer.param_groups if not group["use_muon"]} == {0.1}


def recipe(**changes) -> Recipe:
    optimizer = dict(name="adamw", beta1=0.9, beta2=0.999, eps=1e-8) | changes.pop("optimizer", {})
    schedule = dict(rule="sqrt", base_batch_size=64) | changes.pop("schedule", {})
    return Recipe().vary(optimizer=optimizer, schedule=schedule, **changes)


def test_the_square_root_rule_scales_the_moments_of_adam():
    """Malladi et al. 2022, definition 5.2, by hand for four times the batch."""
    scaled = scaled_optimizer(recipe(batch_size=256))
    assert scaled.beta1 == pytest.approx(0.6) and scaled.beta2 == pytest.approx(0.996)
    assert scaled.eps == pytest.approx(5e-9)


@pytest.mark.parametrize(
    "changes", [dict(optimizer=dict(name="lamb")), dict(schedule=dict(rule="linear")), dict(batch_size=64)]
)
def test_other_rules_optimizers_and_the_base_batch_keep_them(changes):
    own = recipe(**{"batch_size": 256} | changes)
    scaled = scaled_optimizer(own)
    assert (scaled.beta1, scaled.beta2, scaled.eps) == pytest.approx(
        (own.optimizer.beta1, own.optimizer.beta2, own.optimizer.eps)
    )


def test_a_batch_beyond_the_rule_is_rejected_with_the_largest_that_is_not():
    with pytest.raises(RecipeError, match="batch_size=640 or less"):
        scaled_optimizer(recipe(batch_size=704))
    scaled_optimizer(recipe(batch_size=640))
