"""`lbtrain verify optim`, as a user runs it."""

import dataclasses
import math
import subprocess
import sys

import pytest
import timm
import torch
import torch.distributed as dist

from lbtrain.errors import RecipeError
from lbtrain.nn import random_layers
from tests.odd_models import Dropping
from tools.verify.__main__ import main
from tools.verify.optim import (
    LayerComparison,
    Question,
    _check_comparable,
    _layers,
    _loss,
    _worst_first,
    compare_all,
    make_model,
)
from tools.verify.optim_table import block, row_of
from tools.verify.optimizers import OptimizerChoice, deepspeed_section, make_optimizer


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def verify(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tools.verify", "optim", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout + done.stderr


SMALL = ("--model", "timm:test_resnet", "--batch-size", "2", "--image-size", "32", "--steps", "2")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer,zero,code", [("lars", "1", 0), ("timm:lars", "1", 1)])
def test_exit_status_says_whether_layers_are_off(optimizer, zero, code):
    status, text = verify(*SMALL, "--optimizer", optimizer, "--zero", zero)
    assert status == code, text
    assert ("layers agree" if code == 0 else "layers are off by more than 0.01") in text


class Decayed(torch.optim.SGD):
    """An optimizer of a user's own; its norm over all that it holds is wrong on shards."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad /= parameter.grad.norm() + 1e-12
        return super().step(closure)


OWN = f"{__name__}:Decayed"
HERE = Question(OptimizerChoice("lars"), model="timm:test_resnet", batch_size=2, image_size=32, steps=2)
ANSWERS = {
    ("lamb", "deepspeed", 2): 0,
    ("lars", "deepspeed", 3): 0,
    ("lars", "deepspeed", 0): 0,
    ("sgd", "deepspeed", 2): 0,
    ("timm:lamb", "deepspeed", 2): 1,
    ("torch:adafactor", "deepspeed", 1): 1,
    ("deepspeed:adam", "deepspeed", 2): 0,
    (OWN, "deepspeed", 1): 1,
    ("muon", "fsdp2", 0): 0,
    ("timm:lars", "fsdp2", 0): 0,
}


@pytest.mark.slow
def test_other_engines_stages_and_optimizers():
    questions = [
        dataclasses.replace(HERE, choice=OptimizerChoice(optimizer), engine=engine, stage=stage)
        for optimizer, engine, stage in ANSWERS
    ]
    answers = dict(zip(ANSWERS, compare_all(questions), strict=True))
    raised = {key: answer for key, answer in answers.items() if isinstance(answer, str)}
    assert not raised
    assert {key: int(any(layer.off(1e-2) for layer in answers[key])) for key in ANSWERS} == ANSWERS


class FailsOnOneRank(torch.optim.SGD):
    """The other rank waits for it in the next exchange."""

    def step(self, closure=None):
        if torch.distributed.get_rank() == 1:
            raise ArithmeticError("this rank alone")
        torch.distributed.barrier()


@pytest.mark.slow
def test_what_one_rank_alone_raises_is_the_answer_and_leaves_the_next_question_alone():
    own = OptimizerChoice(f"{__name__}:FailsOnOneRank")
    failed, answered = compare_all([dataclasses.replace(HERE, choice=own), HERE])
    assert failed == "ArithmeticError: this rank alone"
    assert not any(layer.off(1e-2) for layer in answered)


@pytest.mark.slow
def test_what_an_engine_raises_is_one_message(capsys):
    arguments = [*SMALL, "--optimizer", "deepspeed:muon"]
    assert main(["optim", *arguments]) == 2
    words = capsys.readouterr().err.strip().splitlines()[-1]
    assert words.startswith("error: ZeRO-1 with deepspeed:muon fails: ")


QUESTIONS = [
    (("--model", "timm:resnt18"), "write timm:NAME"),
    (("--optimizer", "adam"), "write lars, lamb, sgd, adamw, nadamw, muon, torch:NAME"),
    (("--optimizer", "torch:adamm"), "torch.optim has adadelta"),
    (("--optimizer", "deepspeed:lion"), "write deepspeed:NAME with adam, adamw, adagrad, muon"),
    (("--optimizer", "timm:lasr"), "lasr"),
    (("--optimizer", "no_such_module:Muon"), "No module named 'no_such_module'"),
    (("--optimizer", "torch:sgd", "--optimizer-args", "{momentun: 0.9}"), "momentun"),
    (("--optimizer", "deepspeed:adam", "--engine", "fsdp2"), "under --engine deepspeed only"),
    (("--engine", "fsdp2", "--zero", "2"), "leave --zero out"),
    (("--engine", "colossalai", "--zero", "3"), "its stages are 1, 2"),
]


@pytest.mark.parametrize("arguments,words", QUESTIONS)
def test_questions_that_cannot_be_asked(capsys, arguments, words):
    assert main(["optim", *SMALL, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_class_of_ones_own_is_found_in_the_current_folder(tmp_path, monkeypatch):
    """A console script looks in its own folder in place of it."""
    (tmp_path / "found_here.py").write_text("from torch.optim import SGD as Sophia\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    made = make_optimizer(OptimizerChoice("found_here:Sophia", lr=0.5), torch.nn.Linear(2, 2))
    assert type(made) is torch.optim.SGD and made.defaults["lr"] == 0.5


@pytest.mark.parametrize("args", ["{}", "{betas: [0.8, 0.9]}"])
def test_deepspeeds_muon_and_what_it_is_compared_with_have_the_same_settings(args):
    choice = OptimizerChoice("deepspeed:muon", args)
    told = deepspeed_section(choice)["params"]
    for group in make_optimizer(choice, timm.create_model("test_vit")).param_groups:
        assert {name: group[name] for name in ("betas", "eps")} == {
            name: told[name] for name in ("betas", "eps")
        }
    assert told["betas"] == ([0.9, 0.95] if args == "{}" else [0.8, 0.9]) and told["eps"] == 1e-10


def test_a_network_of_lbtrain_is_a_model_too():
    """In a process that has not imported them by itself."""
    ask = (
        "from tools.verify.optim import Question, make_model; "
        "from tools.verify.optimizers import OptimizerChoice; "
        "make_model(Question(OptimizerChoice('sgd'), model='timm:cifar_resnet8'))"
    )
    subprocess.run([sys.executable, "-c", ask], check=True, timeout=120)


def test_dropout_is_off_and_what_else_is_drawn_is_the_same_on_both_sides(one_rank):
    """Or the disturbed run would differ by its draws, and their noise pass for rounding."""
    assert random_layers(timm.create_model("hoffer_c1"))
    assert not random_layers(make_model(dataclasses.replace(HERE, model="timm:hoffer_c1")))
    model = Dropping(in_chans=3)
    assert _loss(HERE, model, 1) == _loss(HERE, model, 1) != _loss(HERE, model.eval(), 1)


def test_where_nothing_is_trained_nothing_is_compared(one_rank):
    for steps, choice in ((1, OptimizerChoice("torch:sgd", lr=0.0)), (0, HERE.choice)):
        question = dataclasses.replace(HERE, choice=choice, engine="fsdp2", stage=0, world=1, steps=steps)
        with pytest.raises(RecipeError, match="changed no weight, sharded or not: give a higher --lr"):
            _layers(question)


def test_where_rounding_is_most_of_the_update_nothing_is_compared():
    lost, clear = LayerComparison("bias", 1.7, 0.2, rounding=0.6), LayerComparison("weight", 1.0, 1.0)
    _check_comparable([lost, clear])
    with pytest.raises(RecipeError, match="rounding alone moves the updates of 2 of 3 layers by 50% or more"):
        _check_comparable([lost, clear, lost])


def test_a_layer_may_move_as_far_as_rounding_moves_it():
    assert LayerComparison("k.bias", 1.03, 0.98).off(1e-2)
    assert not LayerComparison("k.bias", 1.03, 0.98, rounding=0.02).off(1e-2)
    assert LayerComparison("weight", float("nan"), 1.0).off(1e-2)
    assert LayerComparison("weight", math.inf, 0.0, rounding=math.inf).off(1e-2)


def test_a_layer_that_is_off_stands_before_all_that_are_not():
    fine = [(f"fine{number}", 1.0, 0.9999 - 1e-6 * number, 0.0) for number in range(3)]
    excused, off, nan = ("k.bias", 1.0, 0.5, 0.4), ("off", 5.0, 0.99999, 0.0), ("nan", math.nan, 1.0, 0.0)
    found = [layer.name for layer in _worst_first([*fine, excused, off, nan], 1e-2)]
    assert found == ["nan", "off", "k.bias", "fine2", "fine1", "fine0"]


def test_the_table_says_what_is_right_off_and_failing():
    question = dataclasses.replace(HERE, choice=OptimizerChoice("timm:lars"))
    layers = [LayerComparison("a", 28.0, 0.55), LayerComparison("b", 1.0, 1.0)]
    rows = [row_of(question, layers), row_of(question, layers[1:]), row_of(question, "TypeError: no")]
    assert [row.outcome for row in rows] == ["off", "right", "fails"]
    assert "off: 1 of 2 layers, steps x 1 to 28, cosine from 0.55" in block(rows[:1])
    assert "- `timm:lars` under ZeRO-1: TypeError: no" in block(rows[2:])
