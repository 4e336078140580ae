"""The models that timm does not have, against the papers' layers and parameter counts."""

import re

import pytest
import timm
import torch
from torch import nn

import lbtrain.nn  # noqa: F401  registers the models
from lbtrain.data import dataset_info
from lbtrain.nn import GhostBatchNorm2d
from lbtrain.plan.plan import make_plan
from lbtrain.recipe import Recipe
from lbtrain.run import build_bare_model
from lbtrain.tasks import build_model
from tests.recipes.tables import seen


def parameters(name: str, **args) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, **args)
    return sum(parameter.numel() for parameter in model.parameters())


def convolution(channels_in: int, channels_out: int, size: int, groups: int = 1, bias: bool = True) -> int:
    return channels_in // groups * channels_out * size**2 + channels_out * bias


def dense(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def test_alexnet_has_the_parameters_of_caffes():
    by_hand = (
        convolution(3, 96, 11)
        + convolution(96, 256, 5, 2)
        + convolution(256, 384, 3)
        + convolution(384, 384, 3, 2)
        + convolution(384, 256, 3, 2)
        + dense(256 * 6 * 6, 4096)
        + dense(4096, 4096)
        + dense(4096, 1000)
    )
    assert parameters("alexnet") == by_hand == 60_965_224
    assert parameters("alexnet_bn") == by_hand  # its batch norms have no scale and shift


def test_alexnet_bn_is_that_of_the_lars_paper():
    """Four batch norms, each before one of convolutions 2 to 5, and initial norms as in You et al. 2017,
    table 2; the table's rows of weights are named .b and those of biases .w (n weights of deviation s have
    the norm s * sqrt(n): conv1.b has 1.86, and 96 biases of 0.01 have the 0.098 of conv1.w).
    """
    torch.manual_seed(0)
    model = timm.create_model("alexnet_bn")
    kinds = [type(module).__name__ for module in model.features]
    places = [place for place, kind in enumerate(kinds) if kind == "BatchNorm2d"]
    assert len(places) == 4 and all(kinds[place + 1] == "Conv2d" for place in places)
    assert not any(module.affine for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    printed = {
        re.search(r"layer (\S+?\.[wb])\b", row["note"])[1]: float(row["value"])
        for row in seen("you2017lars")
        if row["location"] == "Table 2" and row["metric"] == "weight_norm"
    }
    assert len(printed) == 2 * len(layers) == 16
    for name, layer in zip(names, layers, strict=True):
        assert float(layer.weight.detach().norm()) == pytest.approx(printed[f"{name}.b"], rel=0.01), name
        assert float(layer.bias.detach().norm()) == pytest.approx(printed[f"{name}.w"], rel=0.01), name


def test_alexnets_last_pool_is_caffes_at_227_pixels():
    images = torch.randn(2, 256, 13, 13, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nn.AdaptiveMaxPool2d(6)(images), nn.MaxPool2d(3, 2)(images))
    with torch.device("meta"):
        model = timm.create_model("alexnet")
        assert model.features[:-1](torch.empty(2, 3, 227, 227)).shape == (2, 256, 13, 13)
        assert model(torch.empty(2, 3, 227, 227)).shape == (2, 1000)


def test_alexnets_images_have_the_scale_of_caffes_in_training_and_scoring():
    stds = {
        name: dataset_info(Recipe().vary(data=dict(name="imagenet", augmentation=name)).data).std
        for name in ("alexnet", "imagenet")
    }
    assert stds["alexnet"] == (1.0, 1.0, 1.0) and min(stds["imagenet"]) > 57


def test_local_response_norm_is_caffes():
    """Caffe divides alpha by the number of channels in the window: x / (1 + 1e-4 / 5 * sum of squares) **
    0.75.
    """
    model = timm.create_model("alexnet", hidden=8)
    norm = model.features[2]
    x = torch.randn(1, 7, 1, 1, generator=torch.Generator().manual_seed(0)) * 100
    values = x.flatten().tolist()
    expected = [
        value / (1 + 1e-4 / 5 * sum(near**2 for near in values[max(0, channel - 2) : channel + 3])) ** 0.75
        for channel, value in enumerate(values)
    ]
    torch.testing.assert_close(norm(x).flatten(), torch.tensor(expected))
    assert sum(isinstance(module, nn.LocalResponseNorm) for module in model.modules()) == 2


@pytest.mark.parametrize(("batch_norm", "norms"), [("none", 0), ("conv", 5), ("all", 7)])
def test_reduced_alexnet_is_that_of_masters_and_luschi(batch_norm, norms):
    """Channels 16, 48, 96, 64, 64 and two hidden layers of 256 (section 3.1)."""
    convolutions = [(3, 16, 5), (16, 48, 3), (48, 96, 3), (96, 64, 3), (64, 64, 3)]
    plain = (
        sum(convolution(*each) for each in convolutions)
        + dense(64 * 9, 256)
        + dense(256, 256)
        + dense(256, 10)
    )
    # A norm brings a scale and a shift and takes its layer's bias away.
    extra = {"none": 0, "conv": 16 + 48 + 96 + 64 + 64, "all": 16 + 48 + 96 + 64 + 64 + 256 + 256}[batch_norm]
    assert parameters("reduced_alexnet", batch_norm=batch_norm) == plain + extra
    model = timm.create_model("reduced_alexnet", batch_norm=batch_norm)
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()) == norms
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_reduced_alexnet_rejects_another_batch_norm():
    with pytest.raises(ValueError, match="none, conv, all"):
        timm.create_model("reduced_alexnet", batch_norm="some")


@pytest.mark.parametrize(
    ("name", "millions"), [("cifar_resnet20", 0.27), ("cifar_resnet32", 0.46), ("cifar_resnet44", 0.66)]
)
def test_cifar_resnets_have_the_parameters_of_the_paper(name, millions):
    """He et al. 2016, Table 6, given there with two digits."""
    assert round(parameters(name) / 1e6, 2) == millions


def test_a_cifar_resnet_without_batch_norm_has_biases_instead():
    with_norm, without = parameters("cifar_resnet8"), parameters("cifar_resnet8", batch_norm=False)
    # A norm's scale and shift against a bias, on 16 + (16 + 32 + 64) * 2 channels.
    assert with_norm - without == 16 + (16 + 32 + 64) * 2
    model = timm.create_model("cifar_resnet8", batch_norm=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model(torch.randn(2, 3, 32, 32)).std() > 0


def test_a_cifar_resnets_shortcut_takes_every_second_pixel_and_keeps_channels_last():
    """The gradient of a slice is contiguous, and every operation after it then mixes two memory formats."""
    shortcut = timm.create_model("cifar_resnet8").stages[1][0]._shortcut
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    out = shortcut(x)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2]) and not out[:, 16:].any()
    weights = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, weights)
    by_slice = torch.zeros_like(x)
    by_slice[:, :, ::2, ::2] = weights[:, :16]
    assert torch.equal(gradient, by_slice)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_wide_resnet_16_4():
    """Depth 16: 12 convolutions in blocks, the first one and three shortcuts; 2.7 million parameters
    (Zagoruyko & Komodakis).
    """
    model = timm.create_model("wide_resnet16_4")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions if module.kernel_size == (1, 1)] == [64, 128, 256]
    assert len([module for module in convolutions if module.kernel_size == (3, 3)]) == 13
    assert round(parameters("wide_resnet16_4") / 1e6, 1) == 2.7
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("name", "count"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_timms_resnets_are_goyals(name, count):
    """The stride of a stage in its 3 x 3 convolution, the last gamma of each block 0 (section 5.1); ResNet-50
    "about 25 million" there.
    """
    assert parameters(name) == count
    model = timm.create_model(name)
    blocks = [*model.layer1, *model.layer2, *model.layer3, *model.layer4]
    assert [block.conv1.stride for block in blocks] == [(1, 1)] * len(blocks)
    assert sum(block.conv2.stride == (2, 2) for block in blocks) == 3
    assert all((block.bn3.weight == 0).all() and (block.bn2.weight == 1).all() for block in blocks)
    assert model.get_classifier().weight.shape == (1000, 2048)


@pytest.mark.parametrize(
    "name", ["alexnet", "alexnet_bn", "reduced_alexnet", "cifar_resnet8", "wide_resnet16_4"]
)
def test_a_recipe_can_set_the_heads_initial_weights(name):
    """Goyal et al. 2017, section 5.1: a normal distribution for the last layer, there of standard deviation
    0.01.
    """
    size = dict(image_size=67) if name.startswith("alexnet") else {}
    recipe = Recipe().vary(model=dict(name=name, head_std=0.03), data=dict(name="synthetic", **size))
    head = build_model(recipe, dataset_info(recipe.data)).get_classifier()
    assert head.out_features == dataset_info(recipe.data).num_classes
    assert head.weight.std().item() == pytest.approx(0.03, rel=0.05)
    own = build_model(recipe.vary(model=dict(head_std=0.0)), dataset_info(recipe.data)).get_classifier()
    assert own.weight.std().item() != pytest.approx(0.03, rel=0.1)


def test_the_memory_of_the_running_statistics_reaches_every_layer():
    recipe = Recipe().vary(model=dict(name="cifar_resnet8"), batch_size=16, bn_batch_size=8, bn_momentum=0.3)
    model = build_bare_model(recipe, make_plan(recipe, 1), torch.device("cpu"))
    momenta = [module.momentum for module in model.modules() if isinstance(module, GhostBatchNorm2d)]
    assert len(momenta) == 7 and set(momenta) == {0.3}


def test_resnet50_v1_is_that_of_the_lars_paper():
    """models/resnet50/train_val.prototxt of github.com/borisgin/nvcaffe."""
    torch.manual_seed(0)
    model = timm.create_model("resnet50_v1")
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    strides = [
        (stage[0].conv1.stride[0], stage[0].conv2.stride[0], stage[0].downsample[0].stride[0])
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4)
    ]
    assert strides == [(1, 1, 1), (2, 1, 2), (2, 1, 2), (2, 1, 2)]
    norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert {each.eps for each in norms} == {1e-4} and len(norms) == 53
    assert all(bool((each.weight == 1).all()) for each in norms)
    assert float(model.fc.weight.std()) == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
    assert float(model.layer4[2].conv2.weight.std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "channels", "side", "parameters_of_it"),
    [
        # Sums of (inputs + bias) x outputs and 2 per normalised unit, from the sources' layers.
        ("keskar_f1", 1, 28, 785 * 512 + 4 * 513 * 512 + 5 * 1024 + 513 * 10),
        ("keskar_f2", 1, 28, 785 * 512 + 6 * 513 * 512 + 7 * 1024 + 513 * 10),
        (
            "keskar_c1",
            3,
            32,
            76 * 64 + 1601 * 64 + 4097 * 384 + 385 * 192 + 193 * 10 + 2 * (64 + 64 + 384 + 192),
        ),
        (
            "hoffer_c1",
            3,
            32,
            75 * 64 + 1600 * 64 + 3136 * 384 + 384 * 192 + 193 * 10 + 2 * (64 + 64 + 384 + 192),
        ),
    ],
)
def test_the_small_networks_of_keskar_and_hoffer(name, channels, side, parameters_of_it):
    assert parameters(name) == parameters_of_it
    model = timm.create_model(name)
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 10)
    eps = {each.eps for each in model.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)}
    assert eps == {1e-5 if name == "hoffer_c1" else 1e-3}


def test_keskars_deep_network():
    """network_zoo.deepnet: 13 convolutions, dropout before all but the last of a stage, one hidden layer."""
    model = timm.create_model("keskar_c2", num_classes=100)
    kinds = [type(each).__name__ for each in model.layers]
    assert (kinds.count("Conv2d"), kinds.count("MaxPool2d"), kinds.count("BatchNorm2d")) == (13, 5, 13)
    rates = [each.p for each in model.layers if isinstance(each, torch.nn.Dropout)]
    assert rates == [0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.5]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    assert timm.create_model("keskar_f1", side=8)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_airbench94_is_that_of_its_author():
    """legacy/airbench94.py of github.com/KellerJordan/cifar10-airbench: six convolutions of 3 x 3 that start
    as the identity, norms without a scale, 1.97 million parameters.
    """
    torch.manual_seed(0)
    model = timm.create_model("airbench94").eval()
    assert parameters("airbench94") == (
        24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 10 * 256
    )
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 10)
    first, features = model.groups[0], torch.randn(2, 24, 31, 31)
    assert torch.equal(first.conv1(features)[:, :24], features), "a filter copies its channel"
    assert first(features).shape == (2, 64, 15, 15)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 6 and all(norm.weight is None for norm in norms)


def test_airbench94_whitens_patches():
    from lbtrain.nn.airbench import PATCHES, WHITENING_EPS, whitening_filters

    products = torch.tensor(PATCHES, dtype=torch.float64) / 1e6
    torch.testing.assert_close(products, products.T, rtol=0, atol=0)
    filters = whitening_filters().double().view(24, 12)
    assert torch.equal(filters[:12], -filters[12:])
    values = torch.linalg.eigvalsh(products).flip(0)
    expected = torch.diag(values / (values + WHITENING_EPS))
    torch.testing.assert_close(filters[:12] @ products @ filters[:12].T, expected, rtol=1e-5, atol=1e-5)


def test_a_shift_of_airbench94_moves_64_times_as_far_as_a_weight_and_decays_alike():
    from lbtrain.nn.airbench import SHIFT_SCALE, Shift

    shift, plain = Shift(1, SHIFT_SCALE), Shift(1, 1.0)
    for layer, rate in ((shift, 0.01), (plain, 0.64)):
        # Their groups: decay / rate beside the rate.
        optimizer = torch.optim.SGD(
            layer.parameters(), lr=rate, momentum=0.85, nesterov=True, weight_decay=2e-3 / rate
        )
        for target in (1.0, -2.0, 3.0):
            optimizer.zero_grad()
            (layer(torch.zeros(1, 1, 1, 1)).sum() * target).backward()
            optimizer.step()
    assert (shift.scale * shift.bias).item() == pytest.approx(plain.bias.item(), rel=1e-5)
