"""Models that cannot be made, called or trained: one message when the plan is made, with the argument that
helps, and never a traceback.
"""

import sys

import pytest
import torch
from torch import nn

import tests.odd_models  # registers its models
from lbtrain import Recipe
from lbtrain.data import dataset_info
from lbtrain.engines import create_engine
from lbtrain.errors import RecipeError
from lbtrain.main import main
from lbtrain.plan.plan import make_plan
from lbtrain.plan.report import notes
from lbtrain.plan.statistics import model_statistics
from lbtrain.tasks import build_model

PHOTOS = dict(name="synthetic", image_size=64)
CASES = [
    # arguments
    ("resnet18", dict(norm_layr="batchnorm2d"), {}, "Did you mean norm_layer"),
    ("vit_tiny_patch16_224", dict(img_siz=64), PHOTOS, "Did you mean img_size"),
    ("resnet50", dict(drop_path=0.1), PHOTOS, "Did you mean drop_path_rate"),
    ("vit_tiny_patch16_224", dict(dropout=0.1), PHOTOS, "Did you mean drop_rate|It takes act_layer, "),
    ("resnet18", dict(features_only=True), {}, "features_only=true .* Leave it out"),
    ("resnet18", dict(num_classes=10), {}, "num_classes is set by the data set"),
    ("resnet18", dict(in_chans=3), {}, "in_chans is set by the data set"),
    ("resnet18", dict(checkpoint_path="missing.pt"), {}, "checkpoint_path=missing.pt is not a file"),
    ("resnet18", dict(norm_layer="syncbatchnorm"), {}, "norm_layer. Leave it out: bn_batch_size"),
    ("resnet18", dict(norm_layer="btchnorm"), {}, "norm_layer. Norms of timm are batchnorm2d"),
    ("resnet18", dict(act_layer="rellu"), {}, "act_layer. Activations of timm are relu"),
    ("resnet18", dict(drop_path_rate=2), {}, "drop_path_rate is a share .* at least 0 and below 1"),
    ("resnet18", dict(drop_rate=1), {}, "drop_rate is a share"),
    ("vit_tiny_patch16_224", dict(attn_drop_rate=-0.1), PHOTOS, "attn_drop_rate is a share"),
    ("resnet18", dict(block="x"), {}, "'str' object has no attribute 'expansion'. Without block it is made"),
    (
        "resnet18",
        dict(output_stride=5),
        {},
        "output_stride in .8, 16, 32. does not hold. Without output_stride",
    ),
    ("resnet18", dict(drop_rate=0.1, output_stride=7), {}, "Without output_stride it is made"),
    ("resnet18", dict(output_stride=5, block="x"), {}, "output_stride in .8, 16, 32. does not hold$"),
    ("resnetv2_50", dict(norm_layer="inplaceabn"), PHOTOS, "InplaceAbn.__init__"),
    ("resnet18", dict(drop_rate="x"), {}, "cannot be called: could not convert string to float: 'x'"),
    (
        "mobilevit_s",
        dict(drop_path_rate=0.1),
        PHOTOS,
        "drop path sees 8 rows.*: use model.drop_path=0",
    ),
    # names
    ("resnt18", {}, {}, "Unknown model.* Did you mean resnet18"),
    ("cifar_resnt8", {}, {}, "Did you mean cifar_resnet8"),
    ("resnet18.a1_in1x", {}, {}, "Invalid pretrained tag"),
    ("", {}, {}, "Unknown model"),
    # images
    ("vit_tiny_patch16_224", {}, PHOTOS, r"images of 3 x 64 x 64: .* Use model.args=\{'img_size': 64\}"),
    ("swin_tiny_patch4_window7_224", {}, PHOTOS, r"Use model.args=\{'img_size': 64\}"),
    ("inception_v3", dict(aux_logits=True), PHOTOS, "Nearest valid values: data.image_size=299, 320"),
    ("convnext_atto", {}, {}, "The images of digits have 8 pixels a side: use a model for these"),
    # outputs
    ("odd_tuple", {}, {}, "returns a tuple .a tensor of 2 x 10, a tensor of 2 x 10. in training"),
    ("odd_dict", {}, {}, "returns a dict .a tensor of 2 x 10. in training"),
    ("odd_map", {}, {}, "returns a tensor of 2 x 8 x 8 x 8 in training"),
    ("inception_v3", dict(aux_logits=True), dict(PHOTOS, image_size=299), "returns a tuple"),
    # wrappers
    ("odd_compiled", {}, {}, "the model is wrapped in OptimizedModule: .*compile=true"),
    # layers that depend on the batch
    ("resnetv2_50", dict(norm_layer="evonormb0"), PHOTOS, "EvoNorm2dB0, .*norm_layer=evonorms0"),
]


@pytest.mark.parametrize(("name", "args", "data", "words"), CASES, ids=lambda value: str(value)[:40])
def test_one_message_says_what_is_wrong_and_what_helps(name, args, data, words):
    recipe = Recipe().vary(model=dict(name=name, args=args), data=data)
    with pytest.raises(RecipeError, match=words) as caught:
        model_statistics(recipe, dataset_info(recipe.data))
    assert "\n" not in str(caught.value) and not str(caught.value).endswith((".", " "))


def test_every_head_of_a_model_is_drawn_with_its_deviation(monkeypatch):
    model = dict(name="deit_tiny_distilled_patch16_224", head_std=0.01, args=dict(img_size=64))
    recipe = Recipe().vary(model=model, data=PHOTOS)
    made = build_model(recipe, dataset_info(recipe.data))
    for head in (made.head, made.head_dist):
        assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    monkeypatch.setattr(tests.odd_models.Small, "get_classifier", lambda self: None)
    odd = recipe.vary(model=dict(name="odd_map", args={}), data=dict(name="digits"))
    with pytest.raises(RecipeError, match=r"model.head_std=0.01: model.name=odd_map has no classifier"):
        build_model(odd, dataset_info(odd.data))


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    import timm

    def offline(*_, **__):
        raise FileNotFoundError("Please check your connection")

    monkeypatch.setattr(timm, "create_model", offline)
    for model in (dict(name="resnet18", args=dict(pretrained=True)), dict(name="hf-hub:timm/resnet18")):
        recipe = Recipe().vary(model=model)
        with pytest.raises(RecipeError, match=r"cannot be downloaded here .*model.weights=FILE"):
            model_statistics(recipe, dataset_info(recipe.data))


@pytest.mark.parametrize("words", [["plan_for=2,4"], ["duration=1it"]])
def test_the_command_ends_with_code_2_and_one_message(capsys, monkeypatch, tmp_path, words):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as caught:
        main(Recipe(), ["model.name=resnt18", f"run_dir={tmp_path}/run", *words])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: model.name=resnt18: Unknown model")


@pytest.mark.parametrize(
    ("name", "args", "count"),
    [
        ("resnet18", {}, 0),
        ("resnet18", dict(drop_rate=0.1), 1),
        ("resnet18", dict(drop_path_rate=0.1), 0),
        ("mobilevitv2_050", {}, 0),  # which has drop path layers that drop nothing
        ("mobilevitv2_050", dict(drop_rate=0.2), 2),
        ("vit_tiny_patch16_224", dict(img_size=64, patch_drop_rate=0.25), 1),
    ],
)
def test_the_plan_says_that_dropout_depends_on_the_batch_split(name, args, count):
    recipe = Recipe().vary(model=dict(name=name, args=args), batch_size=32)
    plan = make_plan(recipe.vary(data=dict(PHOTOS)), 1)
    assert plan.statistics.random_layers == count
    assert any(f"in {count} layers draws by micro-batch" in note for note in notes(plan)) == bool(count)


def test_an_engine_takes_no_wrapped_model():
    model = nn.Sequential(nn.DataParallel(nn.Linear(2, 2)))
    plan = make_plan(Recipe().vary(model=dict(name="cifar_resnet8")), 1)
    with pytest.raises(ValueError, match=r"0 is wrapped in DataParallel: .* \(its module\)"):
        create_engine(plan, model, torch.optim.SGD(model.parameters()), torch.device("cpu"))


def test_parameters_without_gradient_are_named_in_the_plan():
    plan = make_plan(Recipe().vary(model=dict(name="odd_unread"), batch_size=32), 1)
    assert plan.statistics.without_gradient == ("scale", "extra.weight", "extra.bias")
    note = "Parameters that get no gradient are not trained: scale, extra.weight, extra.bias."
    assert note in notes(plan)
    assert notes(make_plan(Recipe().vary(model=dict(name="cifar_resnet8")), 1)) == []
