"""The recipe object of a file, whatever was loaded before."""

import os
import sys
from pathlib import Path

import pytest

from lbtrain import cli
from lbtrain.errors import RecipeError
from lbtrain.recipe.files import load_recipe


def write(folder: Path, rate: float) -> Path:
    """A recipe whose parent `base_of_test` has this learning rate."""
    folder.mkdir()
    (folder / "base_of_test.py").write_text(
        f"from lbtrain import Recipe\nrecipe = Recipe().vary(schedule=dict(base_lr={rate}))\n"
    )
    (folder / "child.py").write_text(
        "from base_of_test import recipe as parent\nrecipe = parent.vary(batch_size=64)\n"
    )
    return folder / "child.py"


def test_parents_of_one_name_in_two_folders_are_two(tmp_path, monkeypatch):
    files, path = [write(tmp_path / "a", 0.1), write(tmp_path / "b", 0.9)], list(sys.path)
    assert [load_recipe(file).schedule.base_lr for file in files] == [0.1, 0.9]
    monkeypatch.chdir(tmp_path)
    assert [load_recipe(file.relative_to(tmp_path)).schedule.base_lr for file in files] == [0.1, 0.9]
    assert sys.path == path and "base_of_test" not in sys.modules


@pytest.mark.parametrize("initial", ["__init__.py", "other.py"], ids=["package", "namespace"])
def test_parents_in_packages_of_one_name_are_two_as_well(tmp_path, initial):
    files = []
    for name, rate in (("a", 0.1), ("b", 0.9)):
        child = write(tmp_path / name, rate)
        package = child.parent / "common_of_test"
        package.mkdir()
        (package / initial).write_text("")
        (child.parent / "base_of_test.py").rename(package / "base_of_test.py")
        child.write_text(child.read_text().replace("from base_of_test", "from common_of_test.base_of_test"))
        files.append(child)
    assert [load_recipe(file).schedule.base_lr for file in files] == [0.1, 0.9]
    assert not any("of_test" in name for name in sys.modules)


def test_what_is_not_a_recipe_is_said(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.py is neither a file nor a recipe of lbtrain"):
        load_recipe(tmp_path / "none.py")
    with pytest.raises(RecipeError, match="did you mean digits/digits_720_lamb"):
        load_recipe("digits/digits_720_lambs")
    (tmp_path / "other.py").write_text("recipe = 3\n")
    with pytest.raises(RecipeError, match=r"other\.py defines no `recipe`"):
        load_recipe(tmp_path / "other.py")


def test_a_file_that_would_do_nothing_is_not_run(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words[1]))
    file = tmp_path / "own.py"
    defined = '"""Mine."""\nfrom lbtrain import Recipe, main\nrecipe = Recipe().vary(batch_size=3)\n'
    for command in ("train", "plan"):
        file.write_text(defined)
        assert cli.main([command, str(file)]) == 2
        assert "own.py does nothing when it is run, since it never calls main" in capsys.readouterr().err
        for end in (
            'if __name__ == "__main__":\n    main(recipe)\n',
            "import own\nown.go(recipe)\n",
            "x = (\n",
            "from lbtrain import main as go\ncode = go(recipe)\n",
        ):
            file.write_text(defined + end)
            assert cli.main([command, str(file)]) == 0
    assert started == [str(file)] * 8


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("\nrecipe = Recipe().vary(batchsize=3)\n", "'batchsize' is not a key", 3),
        ("recipe = 2 * parent.batch_size\n", "NameError: name 'parent' is not defined", 2),
        ("import torch.nothing\n", "ModuleNotFoundError: No module named 'torch.nothing'", 2),
        ("recipe = (\n", "SyntaxError: '[(]' was never closed", 2),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_with_its_place(tmp_path, text, said, line):
    (tmp_path / "wrong.py").write_text("from lbtrain import Recipe\n" + text)
    with pytest.raises(RecipeError, match=rf"{said}.* \(.*wrong\.py:{line}\)$"):
        load_recipe(tmp_path / "wrong.py")
