"""What a detector is built from: a backbone, weights of a file, frozen layers, arguments, the keys of a
LazyConfig.
"""

import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.models import detection

from lbtrain.data import dataset_info
from lbtrain.data.instances import InstanceBatch
from lbtrain.data.stream import Block
from lbtrain.errors import DataError, RecipeError
from lbtrain.plan.statistics import model_statistics
from lbtrain.recipe import Recipe
from lbtrain.tasks import build_model, create_task, detectron2_models
from lbtrain.tasks.backbones import STRIDES
from lbtrain.tasks.detectron2_configs import _lazy_with
from lbtrain.tasks.torchvision_models import DETECTORS, argument_names
from lbtrain.trained.model import TrainedModel
from tests.tiny_detection import KINDS, TINY, tiny

ARGUMENTS = TINY["model"]["args"]


def built(recipe: Recipe) -> torch.nn.Module:
    return build_model(recipe, dataset_info(recipe.data))


def test_a_plan_needs_no_weights_and_a_run_does(tmp_path):
    recipe = tiny(model=dict(weights=str(tmp_path / "nowhere.pt")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            model_statistics(recipe, dataset_info(recipe.data)).parameters
            == model_statistics(tiny(), dataset_info(tiny().data)).parameters
        )
    with pytest.raises(RecipeError, match=r"model.weights=.*nowhere.pt"):
        built(recipe)


def test_the_backbone_is_the_one_in_the_file(tmp_path):
    body = built(tiny(seed=7)).backbone.body
    torch.save({"state_dict": body.state_dict()}, tmp_path / "body.pt")
    loaded = built(tiny(seed=8, model=dict(weights=str(tmp_path / "body.pt")))).backbone.body
    for name, tensor in body.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "content",
    [b"", b"no weights", pickle.dumps({"model": {"w": np.zeros(2)}}, protocol=2)],
    ids=["empty", "text", "pickle"],
)
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(RecipeError, match=r"model.weights=.*weights.pt is not a file of tensors") as error:
        built(tiny(model=dict(weights=str(tmp_path / "weights.pt"))))
    assert "\n" not in str(error.value)


def test_a_frozen_layer_that_is_not_there_is_rejected_with_those_that_are():
    model = built(tiny(model=dict(args=ARGUMENTS | dict(frozen=["conv1", "layer1.0.bn1"]))))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        f"backbone.body.{name}" for name in ("conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias")
    }
    with pytest.raises(
        RecipeError, match="begins with stem, block1: it has conv1, bn1, layer1, layer2, layer3, layer4"
    ):
        built(tiny(model=dict(args=ARGUMENTS | dict(frozen=["conv1", "stem", "block1"]))))


def with_backbone(name: str, **arguments) -> Recipe:
    return tiny(model=dict(name=name, args=ARGUMENTS | dict(backbone=arguments)))


def test_frozen_layers_have_the_names_that_the_network_has_alone():
    """timm puts `model.` before them where it reads features by hooks."""
    recipe = with_backbone("mvitv2_tiny")
    with torch.device("meta"):
        model = built(recipe.vary(model=dict(args=recipe.model.args | dict(frozen=["patch_embed"]))))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [
        "backbone.body.model.patch_embed.proj.weight",
        "backbone.body.model.patch_embed.proj.bias",
    ]


BACKBONES = [
    "resnet18",
    "resnext26ts",
    "regnetx_002",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "densenet121",
    "vgg11_bn",
    "convnext_atto",
    "repvgg_a0",
    "seresnet18",
    "mvitv2_tiny",
    "tresnet_m",
]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_pyramid_stands_on_feature_maps_of_strides_4_to_32(name):
    """Where RoIAlign looks for a box follows from them."""
    with torch.device("meta"):
        features = built(with_backbone(name)).backbone(torch.empty(2, 3, 96, 160))
    assert [tuple(features[str(level)].shape[2:]) for level in range(4)] == [
        (96 // stride, 160 // stride) for stride in STRIDES
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        (
            "resnet18",
            dict(output_stride=16),
            r"model.name=resnet18 with .*output_stride.* of strides 2, 4, 8, 16: .* 4, 8, 16, 32",
        ),
        ("vit_tiny_patch16_224", {}, "of strides 16: "),
        ("inception_v4", {}, r"makes features of \[\(160, 30, 46\)"),
        ("alexnet", {}, "as a backbone that returns feature maps, model.name=alexnet: "),
        ("swin_tiny_patch4_window7_224", {}, "takes no image of 128 x 192 pixels"),
        ("swin_tiny_patch4_window7_224", dict(strict_img_size=False), r"makes features of \[\(32, 48, 96\)"),
        ("resnet18", dict(in_chans=1), "takes no image"),
    ],
)
def test_a_backbone_without_such_feature_maps_is_rejected_in_the_plan(name, arguments, said):
    recipe = with_backbone(name, **arguments)
    with pytest.raises(RecipeError, match=said):
        model_statistics(recipe, dataset_info(recipe.data))


@pytest.mark.parametrize("name", ["densenet121", "vgg11_bn", "convnext_atto", "mvitv2_tiny"])
def test_a_backbone_takes_the_weights_of_its_classifier(tmp_path, name):
    classifier = timm.create_model(name, num_classes=3)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "weights.pt")
    recipe = with_backbone(name)
    body = built(recipe.vary(seed=1, model=dict(weights=str(tmp_path / "weights.pt")))).backbone.body.eval()
    images = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(
        body(images),
        classifier.eval().forward_intermediates(images, intermediates_only=True)[-4:],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("box_detections_per_image", "did you mean box_detections_per_img\\?"),
        ("image_mean", "it takes backbone, frozen, channels, "),
        ("max_size", "it takes backbone, frozen, channels, "),
        ("loss_batch_size", "box_batch_size"),
        ("num_classes", "it takes"),
    ],
)
def test_an_argument_that_torchvision_would_swallow_is_rejected(name, said):
    with pytest.raises(
        RecipeError, match=f"model.args: {name} is not an argument of model.detector=mask_rcnn here: .*{said}"
    ):
        built(tiny(model=dict(args=ARGUMENTS | {name: 3})))


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("mask_rcnn", detection.maskrcnn_resnet50_fpn),
        ("faster_rcnn", detection.fasterrcnn_resnet50_fpn),
        ("retinanet", detection.retinanet_resnet50_fpn),
    ],
)
def test_a_detector_is_torchvisions_own_on_a_timm_backbone(kind, theirs):
    """With its weights it finds the same, but for the background, which torchvision's RetinaNet scores too;
    and RetinaNet, which samples nothing, has the same losses.
    """
    torch.manual_seed(0)
    everything = {"score_thresh" if kind == "retinanet" else "box_score_thresh": 0.0}
    sizes = dict(num_classes=5, min_size=64, max_size=64)
    torchs = theirs(weights=None, weights_backbone=None, **sizes, **everything)
    ours = built(tiny(loss_batch_size=1, model=dict(name="resnet50", detector=kind, args=everything)))
    ours.load_state_dict(torchs.state_dict())
    batch = InstanceBatch(
        [torch.rand(3, 64, 64) for _ in range(2)],
        [dict(boxes=torch.tensor([[5.0, 8.0, 40.0, 50.0]]), labels=torch.tensor([3]))] * 2,
        pad_to=(64, 64),
        keys=[0, 1],
        indices=[0, 1],
        original_sizes=[(64, 64)] * 2,
    )
    if kind == "retinanet":
        expected = torchs.train()(batch.images, batch.targets)
        torch.testing.assert_close(ours.train()(batch), expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        found, expected = ours.eval()(batch), torchs.eval()(batch.images)
    assert len(found[0]["labels"])
    expected = [{name: each[image["labels"] > 0] for name, each in image.items()} for image in expected]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_every_argument_that_is_taken_arrives():
    """Numbers that no default has."""
    own = {"channels": 8, "box_features": 8, "mask_channels": 8, "mask_layers": 2, "smallest_anchor": 16}
    others = [name for name in argument_names(DETECTORS["mask_rcnn"]) if name not in own]
    assert len(others) == 18 and {"box_detections_per_img", "rpn_nms_thresh", "bbox_reg_weights"} <= set(
        others
    )
    model = built(
        tiny(
            model=dict(
                args=dict(
                    backbone=ARGUMENTS["backbone"], box_score_thresh=0.123, rpn_score_thresh=0.456, **own
                )
            )
        )
    )
    assert (
        model.roi_heads.score_thresh == 0.123
        and model.rpn.score_thresh == 0.456
        and model.backbone.out_channels == 8
    )


def test_what_detectron2s_mapper_cannot_read_is_named(monkeypatch):
    def mapper(record):
        raise KeyError("counts")

    monkeypatch.setattr(
        detectron2_models, "_record", lambda source, index: {"file_name": "a.jpg", "image_id": index}
    )
    source = SimpleNamespace(check_format=lambda path: None)
    mapped = detectron2_models._Mapped(source, mapper, 0)
    with pytest.raises(
        DataError, match=r"a.jpg: image 3 cannot be read by detectron2's mapper: KeyError: 'counts'"
    ):
        mapped[Block(np.zeros(1, np.int64), np.array([3]))]


def test_batch_norm_is_set_in_a_lazy_config():
    """As in detectron2's configs/common/models/mask_rcnn_fpn.py, of which this is the part that is set."""

    def config():
        bottom_up = dict(stem=dict(norm="FrozenBN"), stages=dict(norm="FrozenBN"))
        return OmegaConf.create(
            dict(model=dict(backbone=dict(bottom_up=bottom_up), roi_heads=dict(num_classes=80)))
        )

    def norms(**model) -> list[str]:
        bottom_up = _lazy_with(
            config(), Recipe().vary(model=dict(library="detectron2", **model)), 4
        ).model.backbone.bottom_up
        return [bottom_up.stem.norm, bottom_up.stages.norm]

    assert norms(batch_norm="frozen") == ["FrozenBN", "FrozenBN"]
    assert norms(batch_norm="ghost") == norms(batch_norm="sync") == ["BN", "BN"]
    assert norms(batch_norm="ghost", args={"model.backbone.bottom_up.stem.norm": "GN"}) == ["GN", "BN"]
    without = OmegaConf.create(dict(model=dict(backbone=dict(net=dict()), roi_heads=dict())))
    with pytest.raises(
        RecipeError,
        match=r"model.batch_norm=ghost: .* has no model.backbone.bottom_up.stem.norm and .*batch_norm=frozen",
    ):
        _lazy_with(without, Recipe().vary(model=dict(library="detectron2", batch_norm="ghost")), 4)


LAZY = dict(
    model=dict(_target_="RCNN", roi_heads=dict(_target_="Heads", num_classes=80)),
    dataloader=dict(
        train=dict(
            mapper=dict(_target_="Mapper", augmentations=[dict(_target_="Resize", short_edge_length=800)])
        )
    ),
    optimizer=dict(lr=0.02, eps=None),
)


@pytest.mark.parametrize(
    "name",
    [
        "model.roi_heads.batch_size_per_image",
        "dataloader.train.mapper.augmentations.0.max_size",
        "dataloader.train.mapper.use_keypoint",
        "optimizer.lr",
        "optimizer.eps",
    ],
)
def test_a_key_of_a_lazy_config_that_is_read_is_set(name):
    model = dict(library="detectron2", batch_norm="frozen", args={name: 3})
    config = _lazy_with(OmegaConf.create(LAZY), Recipe().vary(model=model), 4)
    assert OmegaConf.select(config, name) == 3 and config.model.roi_heads.num_classes == 4


@pytest.mark.parametrize(
    "name",
    [
        "modle.roi_heads.num_classes",
        "model.roi_head.num_classes",
        "optimizer.lrr",
        "dataloader.train.maper.use_keypoint",
        "lr",
        "dataloader.train.mapper.augmentations.7.max_size",
        "dataloader.trian.mapper.use_keypoint",
    ],
)
def test_a_key_that_a_lazy_config_would_take_and_nobody_read_is_rejected(name):
    recipe = Recipe().vary(model=dict(library="detectron2", name="x.py", batch_norm="frozen", args={name: 3}))
    with pytest.raises(RecipeError, match=name):
        _lazy_with(OmegaConf.create(LAZY), recipe, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_deviation_are_the_recipes_and_of_old_checkpoints_imagenets(kind, tmp_path):
    """By hand: a grey image of 0.75 becomes 1 with the mean 0.5 and the deviation 0.25."""
    plain = tiny(**KINDS[kind])
    recipe = plain.vary(data=dict(mean=["0.5"] * 3, std=["0.25"] * 3))
    model = built(recipe)
    assert (model.transform.normalize(torch.full((3, 2, 2), 0.75)) == 1).all()
    own = built(plain)
    assert (own.transform.image_mean, own.transform.image_std) == (
        list(IMAGENET_DEFAULT_MEAN),
        list(IMAGENET_DEFAULT_STD),
    )
    inputs = create_task(recipe, torch.device("cpu")).about()["inputs"]
    assert inputs["mean"] == [127.5] * 3 and inputs["std"] == [63.75] * 3
    names = ["disc", "square", "triangle", "ring"]
    for missing, mean in ((set(), [0.5] * 3), ({"mean", "std"}, list(IMAGENET_DEFAULT_MEAN))):
        said = {key: value for key, value in inputs.items() if key not in missing}
        trained = TrainedModel(
            tmp_path, tmp_path, recipe, model.state_dict(), False, names, said, step=1, fingerprint={}
        )
        assert trained.build().transform.image_mean == mean
