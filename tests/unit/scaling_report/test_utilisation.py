"""MFU and overlap of a measured point."""

import argparse

import pytest
import torch

from lbtrain import Recipe
from lbtrain.data import dataset_info
from lbtrain.launch.hostfile import Hostfile
from lbtrain.plan import precision
from tools.scaling_report.measuring.study import Study
from tools.scaling_report.measuring.utilisation import Utilisation, peak_flops, training_flops
from tools.scaling_report.model.presets import GPUS
from tools.scaling_report.report import Collective, Row

POINT = Row(gpus=8, nodes=1, images_per_s_gpu=2500.0, exposed_communication_s=0.01)
ALONE = [Collective(gpus=8, nodes=1, num_bytes=size, seconds=size / 1e10) for size in (10**6, 10**8)]


def test_mfu_is_the_rate_by_the_data_sheet() -> None:
    [row] = Utilisation(1e8, flops=3 * 8.18e9, peak=312e12).added_to([POINT], [])
    assert row.mfu == pytest.approx(2500 * 3 * 8.18e9 / 312e12)
    assert row.overlap is None


@pytest.mark.parametrize("gradient_bytes, alone_s", [(1e8, 0.01), (5.05e7, 0.00505), (4e8, 0.04)])
def test_overlap_is_what_an_exchange_alone_would_take_less_what_is_exposed(gradient_bytes, alone_s) -> None:
    [row] = Utilisation(gradient_bytes).added_to([POINT], ALONE)
    assert row.mfu is None
    assert row.overlap == pytest.approx(max(0.0, 1 - 0.01 / alone_s))


def test_an_exchange_over_other_gpus_says_nothing() -> None:
    [row] = Utilisation(1e8).added_to([Row(gpus=4, nodes=1, exposed_communication_s=0.01)], ALONE)
    assert row.overlap is None


def test_operations_of_resnet50_are_those_of_its_paper() -> None:
    recipe = Recipe().vary(model=dict(name="resnet50"), data=dict(name="synthetic", image_size=224))
    assert training_flops(recipe, dataset_info(recipe.data)) == pytest.approx(3 * 2 * 4.09e9, rel=0.02)


@pytest.mark.parametrize("asked, products", [("auto", "bf16"), ("fp32", "tf32"), ("fp16", "fp16")])
def test_the_peak_is_that_of_what_computes(asked, products, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this GPU", True))
    recipe = Recipe().vary(model=dict(name="cifar_resnet8"), data=dict(name="synthetic"), precision=asked)
    options = argparse.Namespace(launcher="torchrun", out=tmp_path)
    study = Study(options, Hostfile(("localhost",), 1), recipe)
    assert study.utilisation.peak == GPUS["a100"].tflops[products] * 1e12


@pytest.mark.parametrize(
    "name, precision, teraflops",
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce GTX 1080 Ti", "fp32", 11.3),
        ("NVIDIA RTX 6000 Ada Generation", "tf32", 182.1),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "bf16", 503.8),
        ("AMD Instinct MI300X OAM", "bf16", 1307.4),
        ("Tesla P100-PCIE-16GB", "fp32", 9.3),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA GeForce GTX 480", "fp32", None),
        ("Tesla V100-SXM2-16GB", "bf16", None),
    ],
)
def test_peaks_of_data_sheets(name, precision, teraflops) -> None:
    found = peak_flops(name, precision)
    assert found == (teraflops and pytest.approx(teraflops * 1e12, rel=0.01))
