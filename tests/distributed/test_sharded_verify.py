"""python -m tools.verify optim, as a user runs it."""

import subprocess
import sys

import pytest

from tools.verify.__main__ import main


def verify(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tools.verify", "optim", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout + done.stderr


SMALL = ("--model", "timm:test_resnet", "--batch-size", "2", "--image-size", "32", "--steps", "2")


@pytest.mark.parametrize("optimizer,zero,code", [("lars", "1", 0), ("timm:lars", "1", 1)])
def test_exit_status_says_whether_layers_are_off(optimizer, zero, code):
    status, text = verify(*SMALL, "--optimizer", optimizer, "--zero", zero)
    assert status == code, text
    assert ("layers agree" if code == 0 else "layers are off by more than 0.01") in text


OTHERS = [("lamb", "2", 0), ("lars", "3", 0), ("lars", "0", 0), ("sgd", "2", 0), ("timm:lamb", "2", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer,zero,code", OTHERS)
def test_other_stages_and_optimizers(optimizer, zero, code):
    status, text = verify(*SMALL, "--optimizer", optimizer, "--zero", zero)
    assert status == code, text


QUESTIONS = [
    (("--model", "timm:resnt18"), "write timm:NAME"),
    (("--optimizer", "adam"), "lars, lamb, sgd or timm:NAME"),
    (("--world", "0"), "at least 1"),
]


@pytest.mark.parametrize("arguments,words", QUESTIONS)
def test_questions_that_cannot_be_asked(capsys, arguments, words):
    assert main(["optim", *arguments]) == 2
    assert words in capsys.readouterr().err
