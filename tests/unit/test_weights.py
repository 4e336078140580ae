"""Trained weights to start from, in every kind of file, and what is frozen of a model."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.norm_act import FrozenBatchNorm2d
from torch import nn

from lbtrain import Recipe
from lbtrain.data import dataset_info
from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from lbtrain.plan.report import notes
from lbtrain.runs import checkpoint_files
from lbtrain.tasks import build_model
from lbtrain.tasks.weights import loaded_weights, weights_file
from tests.tiny_detection import tiny

DIGITS = Recipe().vary(model=dict(name="cifar_resnet8"), data=dict(name="digits"))


def built(recipe: Recipe) -> nn.Module:
    return build_model(recipe, dataset_info(recipe.data))


def started_from(path, **model) -> nn.Module:
    return built(DIGITS.vary(seed=1, model=dict(weights=str(path), **model)))


def source() -> dict[str, torch.Tensor]:
    return built(DIGITS.vary(seed=7)).state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in source().items()}


def saved(folder, content) -> str:
    torch.save(content, folder / "weights.pt")
    return str(folder / "weights.pt")


FORMS = {
    "alone": source,
    "checkpoint": lambda: {"state_dict": source(), "optimizer": {}, "recipe": "", "progress": {"step": 3}},
    "model": lambda: {"model": source(), "epoch": 3},
    "ddp": lambda: prefixed("module."),
    "compiled": lambda: {"state_dict": prefixed("_orig_mod.")},
    "compiled ddp": lambda: prefixed("_orig_mod.module."),
    "average": lambda: {"state_dict": {k: 0 * v for k, v in source().items()}, "state_dict_ema": source()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_state_dict_is_read(tmp_path, form):
    model = started_from(saved(tmp_path, FORMS[form]()))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in source().items())


def test_safetensors_and_torch_files_of_the_same_weights_have_the_same_digest(tmp_path):
    without_counters = {k: v for k, v in source().items() if "num_batches_tracked" not in k}
    save_file(without_counters, tmp_path / "weights.safetensors")
    ours = loaded_weights(started_from(tmp_path / "weights.safetensors"))
    theirs = loaded_weights(started_from(saved(tmp_path, without_counters)))
    other = loaded_weights(started_from(saved(tmp_path, {k: v + 1 for k, v in without_counters.items()})))
    assert ours and theirs and other
    assert ours.digest == theirs.digest != other.digest


def checkpoint(folder, step: int, factor: float) -> Path:
    """Of a run: with its checksum beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09}.pt"
    torch.save({"state_dict": {k: v * factor for k, v in source().items()}}, path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest() + "\n")
    return path


def damage(path: Path) -> None:
    """One bit, which torch does not see."""
    content = bytearray(path.read_bytes())
    content[content.find(source()["conv1.weight"].numpy().tobytes()[:64])] ^= 1
    path.write_bytes(content)


def test_folders_mean_what_was_exported_to_them_or_the_newest_checkpoint(tmp_path):
    for step, factor in ((9, 0.0), (10, 1.0), (1_000_000_000, 1.0)):
        checkpoint(tmp_path / "run/checkpoints", step, factor)
    (tmp_path / "run/checkpoints/step_best.pt").touch()
    assert weights_file(str(tmp_path / "run")).name == "step_1000000000.pt"
    assert weights_file(str(tmp_path / "run/checkpoints")).name == "step_1000000000.pt"
    assert torch.equal(started_from(tmp_path / "run").state_dict()["conv1.weight"], source()["conv1.weight"])
    (tmp_path / "run/export").mkdir()
    save_file({k: v * 0 for k, v in source().items()}, tmp_path / "run/export/model.safetensors")
    for folder in ("run", "run/export"):
        model = started_from(tmp_path / folder)
        assert not model.state_dict()["conv1.weight"].any()
        (note,) = loaded_weights(model).notes  # not the newest weights of the run, so it says which
        assert note.startswith(f"The classifier of {tmp_path}/run/export/model.safetensors is kept")


@pytest.mark.parametrize("folder", ["", "checkpoints"])
def test_a_damaged_checkpoint_is_skipped_and_said(tmp_path, folder):
    checkpoint(tmp_path / "checkpoints", 1, 0.0)
    newest = checkpoint(tmp_path / "checkpoints", 2, 1.0)
    damage(newest)
    model = started_from(tmp_path / folder)
    assert not model.state_dict()["conv1.weight"].any()
    note, head = loaded_weights(model).notes
    assert note.startswith(f"{newest} is damaged") and "step_000000001.pt is kept" in head
    with pytest.raises(RecipeError, match=r"step_000000002\.pt is damaged: its checksum"):
        started_from(newest)
    damage(tmp_path / "checkpoints/step_000000001.pt")
    with pytest.raises(RecipeError, match=r"step_000000002\.pt is damaged.*No good checkpoint is left"):
        started_from(tmp_path / folder)


def test_whether_weights_are_there_is_answered_without_reading_them(tmp_path, monkeypatch):
    newest = checkpoint(tmp_path / "checkpoints", 1, 1.0)
    damage(newest)
    monkeypatch.setattr(checkpoint_files, "sha256", None)  # a second a gigabyte, in every start and plan
    assert weights_file(str(tmp_path)) == newest
    assert weights_file(str(newest)) == newest


def test_no_name_means_no_file_of_the_folder_one_is_in(tmp_path, monkeypatch):
    damage(checkpoint(tmp_path / "checkpoints", 1, 1.0))
    monkeypatch.chdir(tmp_path)
    assert weights_file("") is None


def test_a_head_of_another_size_is_made_new_and_said(tmp_path):
    other = timm.create_model("cifar_resnet8", num_classes=3, in_chans=1).state_dict()
    model = started_from(saved(tmp_path, other), head_std=0.5)
    fresh = built(DIGITS.vary(seed=1, model=dict(head_std=0.5))).state_dict()
    loaded = model.state_dict()
    assert torch.equal(loaded["conv1.weight"], other["conv1.weight"])
    assert torch.equal(loaded["fc.weight"], fresh["fc.weight"])
    assert torch.equal(loaded["fc.bias"], fresh["fc.bias"])
    (note,) = loaded_weights(model).notes
    assert note.startswith("The classifier is new, with 10 outputs: that of ") and note.endswith(
        "has 3 outputs."
    )


def test_a_head_of_the_same_size_is_kept_and_said(tmp_path):
    (note,) = loaded_weights(started_from(saved(tmp_path, source()))).notes
    assert note.startswith("The classifier of ") and "is kept: it has 10 outputs" in note


def test_a_file_without_a_head_gives_a_new_one(tmp_path):
    model = started_from(saved(tmp_path, {k: v for k, v in source().items() if "fc." not in k}))
    (note,) = loaded_weights(model).notes
    assert note.endswith("is not there.")


def test_names_that_the_model_does_not_have_are_listed(tmp_path):
    more = source() | {f"teacher.{number}.weight": torch.zeros(2) for number in range(7)}
    _, note = loaded_weights(started_from(saved(tmp_path, more))).notes
    assert "teacher.0.weight, teacher.1.weight" in note and note.endswith("and 2 more.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a.weight": torch.zeros(2)}, "it lacks .* and .* more; it has a.weight, which the model"),
        ({k: v for k, v in source().items() if k != "conv1.weight"}, "it lacks conv1.weight"),
        (source() | {"conv1.weight": torch.zeros(3, 1, 3, 3)}, r"conv1.weight has shape \(3, 1, 3, 3\)"),
        ({"state_dict": {"a": 1}}, "holds no weights by name"),
        ({}, "holds no weights by name"),
        ([1], "is not a file of tensors|holds no weights by name"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_rejected_in_one_line(tmp_path, content, said):
    with pytest.raises(RecipeError, match=f"model.weights=.*weights.pt .*{said}") as error:
        started_from(saved(tmp_path, content))
    assert "\n" not in str(error.value)


class Planted:
    """What a hostile pickle would do."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def test_nothing_in_a_file_is_executed(tmp_path):
    with pytest.raises(RecipeError, match="is not a file of tensors"):
        started_from(saved(tmp_path, {"state_dict": Planted()}))


def test_a_name_that_is_neither_file_nor_tag_says_which_tags_there_are():
    with pytest.raises(
        RecipeError, match=r"neither a file.*nor a tag: timm has no published weights for cifar_res"
    ):
        started_from("nowhere.pt")
    recipe = Recipe().vary(model=dict(name="resnet18", weights="a1_in2k"), data=dict(name="synthetic"))
    with pytest.raises(RecipeError, match="timm has a1_in1k, "):
        built(recipe)


@pytest.mark.slow
def test_an_unreachable_hugging_face_hub_is_one_line_and_code_2(tmp_path):
    """In a process of its own, with a proxy that refuses every connection."""
    code = (
        "from lbtrain import Recipe, main\n"
        "main(Recipe().vary(batch_size=4, bn_batch_size=4, duration='1it', model=dict(name='resnet18', "
        "weights='a1_in1k'), data=dict(name='synthetic', image_size=32)))\n"
    )
    (tmp_path / "recipe.py").write_text(code)
    command = [sys.executable, "recipe.py"]
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | closed | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert (
        "model.name=resnet18.a1_in1k" in line
        and "cannot be downloaded" in line
        and "model.weights=FILE" in line
    )


def test_weights_of_colour_images_are_adapted_to_grey_ones(tmp_path):
    """As timm does: the sum over the channels."""
    colour = timm.create_model("resnet18", num_classes=10)
    recipe = Recipe().vary(model=dict(name="resnet18", weights=saved(tmp_path, colour.state_dict())))
    model = built(recipe.vary(data=dict(name="digits")))
    expected = colour.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.conv1.weight, expected)


def test_a_detector_starts_from_a_detector_with_other_classes(tmp_path):
    other = built(tiny(seed=7)).state_dict()
    for name in list(other):
        if name.endswith(("cls_score.weight", "cls_score.bias")):
            other[name] = other[name][:2]
    model = built(tiny(seed=8, model=dict(weights=saved(tmp_path, other))))
    for name in ("rpn.head.conv.0.0.weight", "rpn.head.bbox_pred.weight"):
        assert torch.equal(model.state_dict()[name], other[name])
    assert loaded_weights(model).notes[0].startswith("The classifier is new")


# Frozen parameters.


def test_frozen_parameters_are_not_trained_and_their_batch_norm_keeps_its_statistics():
    model = built(DIGITS.vary(model=dict(freeze=["conv1.*", "bn1.*", "stages.0.*"])))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and not any(name.startswith(("conv1.", "bn1.", "stages.0.")) for name in trained)
    assert isinstance(model.bn1, FrozenBatchNorm2d) and not isinstance(
        model.stages[1][0].bn1, FrozenBatchNorm2d
    )
    model.train()(torch.randn(4, 1, 8, 8))
    assert not model.bn1.running_mean.any() and model.stages[1][0].bn1.running_mean.any()


def test_batch_norm_of_which_a_part_is_trained_stays():
    model = built(DIGITS.vary(model=dict(freeze=["conv1.*", "bn1.weight"])))
    assert isinstance(model.bn1, nn.BatchNorm2d) and not model.bn1.weight.requires_grad


def test_a_pattern_that_matches_nothing_is_rejected_in_the_plan():
    with pytest.raises(RecipeError, match=r"model.freeze=stges.\* matches no parameter.*Did you mean stages"):
        make_plan(DIGITS.vary(model=dict(freeze=["stges.*"])), 1)


def test_everything_frozen_is_rejected_in_the_plan():
    with pytest.raises(RecipeError, match="no trainable parameter"):
        make_plan(DIGITS.vary(model=dict(freeze=["*"])), 1)


def test_batch_norm_that_has_no_frozen_form_is_rejected():
    """timm leaves BatchNorm1d as it is, whose statistics would go on moving."""
    recipe = DIGITS.vary(model=dict(name="keskar_f1", freeze=["layers.1.*", "layers.2.*"]))
    with pytest.raises(RecipeError, match=r"model.freeze covers layers.2, a BatchNorm1d"):
        built(recipe)


def test_the_plan_says_what_is_frozen():
    plan = make_plan(DIGITS.vary(model=dict(freeze=["stages.0.*"])), 1)
    assert plan.statistics.not_decayed < make_plan(DIGITS, 1).statistics.not_decayed
    (note,) = notes(plan)
    assert note == (
        "model.freeze: 4,672 parameters are not trained, "
        "and 2 batch-norm layers keep their stored statistics."
    )
