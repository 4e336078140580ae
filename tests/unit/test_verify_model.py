"""`lbtrain verify model` sees a layer that depends on the batch split, and rejects what cannot be."""

import csv
import dataclasses

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, StochasticDepth

import tests.odd_models
from lbtrain.nn import random_layers, without_random_layers
from tools.verify import optim_table, sweep
from tools.verify.__main__ import main
from tools.verify.model import difference_of_states
from tools.verify.sweep import _first_difference
from tools.verify.traces import Question, trained


class MicroBatchMean(nn.Module):
    """Depends on the images beside it, and keeps nothing that shows it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs().mean(0)


class DependsOnTheBatch(tests.odd_models.Small):
    def __init__(self, **args):
        super().__init__(**args)
        self.stage[2] = MicroBatchMean()


class SharedPool(tests.odd_models.Small):
    """One layer is called at two places, with images of two sizes."""

    def __init__(self, **args):
        super().__init__(**args)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.pool(self.stem(self.pool(x)))).mean((2, 3)))


tests.odd_models._register("odd_shared_pool", SharedPool)
tests.odd_models._register("odd_depends_on_the_batch", DependsOnTheBatch)


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def question(name: str) -> Question:
    return Question(f"timm:{name}", "{}", 1, 2, 8, 4, 16, "sgd", 0.05, tolerance=1e-8, rows=0)


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("cifar_resnet8", True),
        ("odd_frozen_stem", True),
        ("odd_shared_pool", True),
        ("odd_clamping", True),
        ("odd_depends_on_the_batch", False),
    ],
)
def test_a_layer_that_depends_on_the_batch_split_is_seen(one_rank, name, holds):
    reference, other = (trained(question(name), split) for split in question(name).splits())
    difference = difference_of_states(other, reference)
    assert (difference < 1e-12) == holds
    if not holds:
        assert difference > 1e-4
        assert _first_difference(other, reference, 1e-8) == "the outputs of stage.2 differ first"


DRAWING = [
    ("vit_tiny_patch16_224", dict(drop_rate=0.1, drop_path_rate=0.2), ["blocks.11.drop_path1", "head_drop"]),
    ("vit_tiny_patch16_224", dict(patch_drop_rate=0.25), ["patch_drop"]),
    ("vit_tiny_patch16_224", dict(attn_layer="diff", attn_drop_rate=0.1), ["blocks.0.attn"]),
    ("eva02_tiny_patch14_224", dict(patch_drop_rate=0.25, rope_shift_coords=0.1), ["patch_drop", "rope"]),
    ("hiera_tiny_224", dict(patch_drop_rate=0.25), [""]),
]


@pytest.mark.parametrize(("name", "args", "layers"), DRAWING)
def test_layers_that_draw_random_numbers_are_found_and_switched_off(name, args, layers):
    size = 224 if name.startswith("hiera") else 28 if name.startswith("eva") else 32
    model = timm.create_model(name, **args, img_size=size)
    assert set(layers) <= set(random_layers(model))
    state = torch.get_rng_state()
    without_random_layers(model.train())(torch.zeros(2, 3, size, size))
    assert torch.equal(torch.get_rng_state(), state) and random_layers(model) == {}


def test_layers_of_torch_and_torchvision_that_draw_are_found():
    layers = [nn.Dropout2d(1), StochasticDepth(0.2, "row"), DropBlock2d(0.1, 3), nn.Dropout(0.0)]
    found = random_layers(nn.Sequential(*layers, nn.MultiheadAttention(4, 2, dropout=0.1)))
    assert found == {"0": ["p"], "1": ["p"], "2": ["p"], "4": ["dropout"]}


REJECTED = [
    (("resnet18",), "write timm:NAME"),
    (("timm:resnt18",), "Did you mean resnet18"),
    (("timm:vit_tiny_patch16_224",), "img_size"),
    (("timm:resnet18", "--batch-size", "6"), "--batch-size must hold"),
    (("timm:resnet18", "--world", "3"), "--bn-batch-size must be a multiple of --world=3"),
]


@pytest.mark.parametrize(("arguments", "words"), REJECTED)
def test_what_cannot_be_is_rejected_with_code_2(capsys, arguments, words):
    assert main(["model", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(
            "model timm:resnet18 --tolerance nan",
            "model timm:resnet18 --lr nan",
            "model timm:resnet18 --rows -13",
        ),
        *(
            "optim --lr 0",
            "optim --tolerance -1",
            "optim --world 0",
            "optim --rows -3",
            "optim --weight-decay nan",
        ),
        *("runs a b --within nan", "runs a b --within -1", "sweep --out x.csv --minutes nan"),
    ],
)
def test_a_number_under_which_every_answer_is_wrong_is_rejected(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2 and "above 0" in capsys.readouterr().err


def test_the_command_prints_a_table_and_the_outcome(capsys):
    assert main(["model", "timm:cifar_resnet8", "--image-size", "16", "--rows", "3", "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "the guarantee holds: all 15 layers agree to" in printed and "3 of 15 layers" in printed


def test_a_split_that_cannot_be_is_rejected_before_any_process_starts(capsys, monkeypatch):
    monkeypatch.setattr("tools.verify.model.mp.spawn", None)
    words = ["--image-size", "16", "--batch-size", "12", "--world", "4"]
    assert main(["model", "timm:cifar_resnet8", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "batch_size=12 cannot be split over 4 ranks into ghost batches of bn_batch_size=4" in line


def test_fp32_shows_how_rounding_grows_and_judges_only_by_a_given_tolerance(capsys):
    words = ["model", "timm:cifar_resnet8", "--image-size", "16", "--precision", "fp32", "--world", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "whether that is rounding alone, float64 tells" in printed and "1 batch split against" in printed
    assert main([*words, "--tolerance", "1e-12"]) == 1
    assert "the guarantee does not hold" in capsys.readouterr().out


def test_a_sweep_writes_a_row_for_each_family_and_goes_on_from_there(one_rank, tmp_path, monkeypatch):
    families = {"ours": ["cifar_resnet8"]}
    monkeypatch.setattr(timm, "list_models", lambda module="": families.get(module, ["x"]))
    monkeypatch.setattr(timm, "list_modules", lambda: ["other", "ours"])
    out, page = tmp_path / "models.csv", tmp_path / "models.md"
    assert main(["sweep", "--out", str(out), "--page", str(page), "--families", "ours,other"]) == 0
    ours, other = sorted(csv.DictReader(out.open()), key=lambda row: row["family"] == "other")
    assert (ours["outcome"], ours["model"], ours["batch_norm_layers"]) == ("holds", "cifar_resnet8", "7")
    assert float(ours["difference"]) < 1e-12 and ours["commit"] and "timm=" in ours["versions"]
    assert other["outcome"] == "rejected" and "Unknown model" in other["reason"]
    assert "2 families with 2 models, 1 of which" in page.read_text()
    assert "1 rejected, 1 holds" in page.read_text()
    before = out.read_text()
    monkeypatch.setattr("tools.verify.sweep._built", None)
    monkeypatch.setattr("tools.verify.sweep._tried", None)
    assert main(["sweep", "--out", str(out), "--families", "ours,other"]) == 0 and out.read_text() == before
    out.write_text(waiting := before.replace(",rejected,", ",not trained yet,"))
    assert waiting != before and main(["sweep", "--out", str(out), "--families", "ours"]) == 0
    assert out.read_text() == waiting, "a family that was not named is not trained"


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "not trained yet", 75),
        (MemoryError(), "not trained yet", 75),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "does not hold", 1),
    ],
)
def test_too_little_memory_says_nothing_about_a_model(one_rank, tmp_path, monkeypatch, error, outcome, code):
    monkeypatch.setattr(timm, "list_models", lambda module="": ["cifar_resnet8"])
    monkeypatch.setattr(timm, "list_modules", lambda: ["ours"])

    def raises(*_):
        raise error

    monkeypatch.setattr("tools.verify.sweep.trained", raises)
    out = tmp_path / "models.csv"
    assert main(["sweep", "--out", str(out)]) == code
    [row] = csv.DictReader(out.open())
    assert row["outcome"] == outcome and type(error).__name__ in row["reason"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "is another table: its columns are a,b, and not "),
        ("WHOLE\nx,y\n", "line 2 cannot be read"),
    ],
)
@pytest.mark.parametrize("command", ["sweep --families vgg", "optimizers --shardings fsdp2"])
def test_a_table_of_another_kind_is_rejected(tmp_path, capsys, content, said, command):
    out, kind = tmp_path / "x.csv", optim_table.Row if "optimizers" in command else sweep.Row
    out.write_text(content.replace("WHOLE", ",".join(field.name for field in dataclasses.fields(kind))))
    assert main([*command.split(), "--out", str(out)]) == 2
    assert said in capsys.readouterr().err


def test_a_page_is_looked_at_before_anything_is_measured(one_rank, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.verify.optim_table.compare_all", None)
    words, page = ["optimizers", "--out", str(tmp_path / "x.csv"), "--page"], tmp_path / "page.md"
    assert main([*words, str(page)]) == 7 and "No such file" in capsys.readouterr().err
    page.write_text("no markers")
    assert main([*words, str(page)]) == 2 and "needs the markers" in capsys.readouterr().err
    monkeypatch.setattr("tools.verify.sweep._built", None)
    (tmp_path / "file").touch()
    words = ["sweep", "--families", "vgg", "--out", str(tmp_path / "y.csv"), "--page"]
    assert main([*words, str(tmp_path / "file/page.md")]) == 7


def test_a_sweep_that_has_no_time_at_all_is_not_done(one_rank, tmp_path, capsys):
    out = tmp_path / "models.csv"
    assert main(["sweep", "--out", str(out), "--families", "vgg", "--minutes", "1e-9"]) == 75
    assert "1 of 1 families are not trained yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("families", "said"),
    [
        ("vgg,resnett", "--families resnett: timm has no such family: did you mean resnet?"),
        ("resnet,", "--families : timm has no such family: timm.list_modules() has all names"),
    ],
)
def test_a_family_that_timm_does_not_have_is_rejected_with_the_nearest(tmp_path, capsys, families, said):
    out = tmp_path / "models.csv"
    assert main(["sweep", "--out", str(out), "--families", families]) == 2
    assert capsys.readouterr().err == f"error: {said}\n" and not out.exists()


def test_a_sweep_without_time_to_train_says_so_and_trains_small_models_first(
    one_rank, tmp_path, monkeypatch, capsys
):
    families = {"wide": ["resnet18"], "small": ["cifar_resnet8"]}
    monkeypatch.setattr(timm, "list_models", lambda module="": families[module])
    monkeypatch.setattr(timm, "list_modules", lambda: [*families])
    words = ["sweep", "--out", str(tmp_path / "models.csv"), "--families", "wide,small"]
    monkeypatch.setattr("tools.verify.sweep._tried", lambda row: row)
    page = tmp_path / "models.md"
    assert main([*words, "--page", str(page)]) == 75 and "2 not trained yet" in page.read_text()
    assert "2 of 2 families are not trained yet: the same" in capsys.readouterr().out
    monkeypatch.setattr(
        "tools.verify.sweep._tried", lambda row: dataclasses.replace(row, outcome="holds", difference="1e-15")
    )
    capsys.readouterr()
    assert main([*words, "--page", str(page)]) == 0 and "2 holds" in page.read_text()
    assert capsys.readouterr().out.splitlines() == ["small: cifar_resnet8 holds", "wide: resnet18 holds"]
