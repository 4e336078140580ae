"""A command fails in one line, and is called what a user types."""

import argparse

import pytest

from lbtrain.errors import Diverged, RecipeError
from tools.kit import command


def fails(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RecipeError("batch_size=0 must be positive"), 2, "error: batch_size=0 must be positive\n"),
        (Diverged("the loss is NaN"), 5, "error: the loss is NaN\n"),
        (KeyboardInterrupt(), 130, "Stopped. What has finished is kept: "),
        (
            NotADirectoryError(20, "Not a directory", "/dev/null/x"),
            7,
            "error: /dev/null/x: Not a directory\n",
        ),
        (OSError(28, "No space left on device"), 7, "error: No space left on device\n"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(error, code, said, capsys):
    assert command.exit_code(fails(error)) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(said) and err.count("\n") == 1


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), OSError("it is damaged"), KeyError()])
def test_a_fault_of_the_program_is_a_traceback_and_no_tools_answer(error, capsys):
    assert command.exit_code(fails(error)) == 70
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Traceback") and type(error).__name__ in err.splitlines()[-1]


def test_text_is_printed_and_a_code_is_passed_on(capsys):
    assert (
        command.exit_code(lambda: "done"),
        command.exit_code(lambda: 3),
        command.exit_code(lambda: None),
    ) == (
        0,
        3,
        0,
    )
    assert capsys.readouterr().out == "done\n"
    command.exit_code(lambda: "caf\udce9/ü.html")  # as Python has a path in another encoding
    assert capsys.readouterr().out == "caf\\xe9/ü.html\n"


def test_a_command_is_called_what_is_typed(monkeypatch):
    assert command.typed("study sweep", ["a b.py", "x=1"]) == "python -m tools.study sweep 'a b.py' x=1"
    monkeypatch.setattr(command, "__package__", "lbtrain.tools.kit")
    assert command.program("scaling_report") == "lbtrain scaling-report"
    assert command.parser("study", None).prog == "lbtrain study"


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "-inf", "", "x", "1e999"])
def test_an_amount_is_a_number_above_0_or_0_where_that_has_a_meaning(text):
    assert command.positive("1e-8") == command.positive_or_zero("1e-8") == 1e-8
    assert (
        command.positive_or_zero("0.0") == 0 == command.count_or_none("0") and command.count_or_none("3") == 3
    )
    for kind in (command.positive, command.positive_or_zero, command.count_or_none, command.count):
        with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
            kind(text)


def test_several_numbers_stand_each_once_and_in_their_order():
    assert command.each_of(command.percentage)("25,20,25.0,18.5") == (25, 20, 18.5)
    for text in ("25,", "", "25,100", "0"):
        with pytest.raises(argparse.ArgumentTypeError, match="between 0 and 100"):
            command.each_of(command.percentage)(text)
