"""What a detector is built from: weights of a file, frozen layers, the keys of a LazyConfig."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lbtrain.census import census
from lbtrain.data import facts
from lbtrain.errors import DataError, RecipeError
from lbtrain.recipe import Recipe
from lbtrain.sampling import Block
from lbtrain.tasks import build_model, detectron2_models
from lbtrain.tasks.detectron2_configs import _lazy_with
from tests.tiny_detection import TINY, tiny

ARGUMENTS = TINY["model"]["args"]


def built(recipe: Recipe) -> torch.nn.Module:
    return build_model(recipe, facts(recipe.data))


def test_a_plan_needs_no_weights_and_a_run_does(tmp_path):
    recipe = tiny(model=dict(weights=str(tmp_path / "nowhere.pt")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert census(recipe, facts(recipe.data)).parameters == census(tiny(), facts(tiny().data)).parameters
    with pytest.raises(RecipeError, match=r"model.weights=.*nowhere.pt"):
        built(recipe)


def test_the_backbone_is_the_one_in_the_file(tmp_path):
    body = built(tiny(seed=7)).backbone.body
    torch.save({"state_dict": body.state_dict()}, tmp_path / "body.pt")
    loaded = built(tiny(seed=8, model=dict(weights=str(tmp_path / "body.pt")))).backbone.body
    for name, tensor in body.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "content", [b"", b"no weights", pickle.dumps({"model": {"w": np.zeros(2)}}, protocol=2)], ids=["empty", "text", "pickle"]
)
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(RecipeError, match=r"model.weights=.*weights.pt is no file of tensors") as error:
        built(tiny(model=dict(weights=str(tmp_path / "weights.pt"))))
    assert "\n" not in str(error.value)


def test_a_frozen_layer_that_is_not_there_is_refused_with_those_that_are():
    model = built(tiny(model=dict(args=ARGUMENTS | dict(frozen=["conv1", "layer1.0.bn1"]))))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"backbone.body.{name}" for name in ("conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias")}
    with pytest.raises(RecipeError, match="begins with stem, block1: it has conv1, bn1, layer1, layer2, layer3, layer4"):
        built(tiny(model=dict(args=ARGUMENTS | dict(frozen=["conv1", "stem", "block1"]))))


def test_what_detectron2s_mapper_cannot_read_is_named(monkeypatch):
    def mapper(record):
        raise KeyError("counts")

    monkeypatch.setattr(detectron2_models, "_record", lambda source, index: {"file_name": "a.jpg", "image_id": index})
    mapped = detectron2_models._Mapped(None, mapper, 0)
    with pytest.raises(DataError, match=r"a.jpg: image 3 cannot be read by detectron2's mapper: KeyError: 'counts'"):
        mapped[Block(np.zeros(1, np.int64), np.array([3]))]


def test_batch_norm_is_set_in_a_lazy_config():
    """As in detectron2's configs/common/models/mask_rcnn_fpn.py, of which this is the part that is set."""

    def config():
        bottom_up = dict(stem=dict(norm="FrozenBN"), stages=dict(norm="FrozenBN"))
        return OmegaConf.create(dict(model=dict(backbone=dict(bottom_up=bottom_up), roi_heads=dict(num_classes=80))))

    def norms(**model) -> list[str]:
        bottom_up = _lazy_with(config(), Recipe().vary(model=dict(library="detectron2", **model)), 4).model.backbone.bottom_up
        return [bottom_up.stem.norm, bottom_up.stages.norm]

    assert norms(batch_norm="frozen") == ["FrozenBN", "FrozenBN"]
    assert norms(batch_norm="ghost") == norms(batch_norm="sync") == ["BN", "BN"]
    assert norms(batch_norm="ghost", args={"model.backbone.bottom_up.stem.norm": "GN"}) == ["GN", "BN"]
    without = OmegaConf.create(dict(model=dict(backbone=dict(net=dict()), roi_heads=dict())))
    with pytest.raises(RecipeError, match=r"model.batch_norm=ghost: .* has no model.backbone.bottom_up.stem.norm and .*batch_norm=frozen"):
        _lazy_with(without, Recipe().vary(model=dict(library="detectron2", batch_norm="ghost")), 4)


LAZY = dict(
    model=dict(_target_="RCNN", roi_heads=dict(_target_="Heads", num_classes=80)),
    dataloader=dict(train=dict(mapper=dict(_target_="Mapper", augmentations=[dict(_target_="Resize", short_edge_length=800)]))),
    optimizer=dict(lr=0.02, eps=None),
)


@pytest.mark.parametrize(
    "name",
    [
        "model.roi_heads.batch_size_per_image", "dataloader.train.mapper.augmentations.0.max_size", "dataloader.train.mapper.use_keypoint",
        "optimizer.lr", "optimizer.eps",
    ],
)  # fmt: skip
def test_a_key_of_a_lazy_config_that_is_read_is_set(name):
    model = dict(library="detectron2", batch_norm="frozen", args={name: 3})
    config = _lazy_with(OmegaConf.create(LAZY), Recipe().vary(model=model), 4)
    assert OmegaConf.select(config, name) == 3 and config.model.roi_heads.num_classes == 4


@pytest.mark.parametrize(
    "name",
    [
        "modle.roi_heads.num_classes", "model.roi_head.num_classes", "optimizer.lrr", "dataloader.train.maper.use_keypoint", "lr",
        "dataloader.train.mapper.augmentations.7.max_size", "dataloader.trian.mapper.use_keypoint",
    ],
)  # fmt: skip
def test_a_key_that_a_lazy_config_would_take_and_nobody_read_is_refused(name):
    recipe = Recipe().vary(model=dict(library="detectron2", name="x.py", batch_norm="frozen", args={name: 3}))
    with pytest.raises(RecipeError, match=name):
        _lazy_with(OmegaConf.create(LAZY), recipe, 4)
