"""The command `lbtrain`: what each word does, and one message where it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lbtrain
from lbtrain.cli import TOOLS, main
from lbtrain.recipe.contract import parent_of
from lbtrain.recipe.files import RECIPES, load_recipe, shipped


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lbtrain", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_every_recipe_is_listed_with_its_results(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert len(shipped()) > 60 and all(name in shown for name in shipped())
    assert max(map(len, shown.splitlines())) <= 100
    (digits,) = [line for line in shown.splitlines() if line.startswith("digits/digits_720_lamb ")]
    assert digits.split()[1:4] == ["720", "0.73", "±"] and "You et al. 2019" in digits


@pytest.mark.parametrize(
    ("word", "one"),
    [("LAMB", "resnet50_lamb_32k"), ("goyal", "resnet101_8k"), ("ghost", "resnet50_ghost_bn")],
)
def test_a_word_is_looked_for_in_name_title_and_source(capsys, word, one):
    assert main(["recipes", word]) == 0
    rows = capsys.readouterr().out.splitlines()[1:-2]
    assert 1 < len(rows) < len(shipped()) / 3 and any(one in row for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes", "zzz"], "no recipe has 'zzz'"),
        (["recipes", "path", "imagenet/resnet50_8q"], "did you mean imagenet/resnet50_8k?"),
        (["recipes", "path", "resnet50_8q"], "did you mean resnet50_8k?"),
        (["train", "qqq"], "`lbtrain recipes` lists"),
        (["plan", "digits/digit", "--gpus", "8"], "did you mean digits/digits?"),
        (["diff", "/not/there.py"], "neither a file nor a recipe"),
        (["recipes", "copy", "digits"], "recipes copy NAME FOLDER"),
        (["recipes", "copy"], "recipes copy NAME FOLDER"),
        (["recipes", "path"], "recipes path NAME"),
        (["traim"], "no command 'traim': did you mean train?"),
        (["scaling_report"], "did you mean scaling-report?"),
        (["xyz"], "no command 'xyz' (`lbtrain --help` lists all)"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_code_2(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_copied_recipe_runs_in_its_folder_with_its_parents(tmp_path):
    done = run("recipes", "copy", "imagenet/resnet50_8k_no_warmup", "own", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {"resnet50_8k_no_warmup.py", "resnet50_8k.py", "resnet50.py"}
    assert {path.name for path in (tmp_path / "own").iterdir()} == names
    parent = tmp_path / "own/resnet50.py"
    parent.write_text(parent.read_text().replace("base_lr=0.1", "base_lr=0.7"))
    assert load_recipe(tmp_path / "own/resnet50_8k_no_warmup.py").schedule.base_lr == 0.7
    again = run("recipes", "copy", "imagenet/resnet50_8k", "own", cwd=tmp_path)
    assert again.returncode == 2 and "resnet50.py" in again.stderr and "0.7" in parent.read_text()


@pytest.mark.parametrize("broken", ["mine", "parent"])
def test_a_recipe_that_is_no_python_is_not_copied_and_its_line_is_named(tmp_path, capsys, broken):
    (tmp_path / "mine.py").write_text("from parent import recipe\n")
    (tmp_path / "parent.py").write_text("from lbtrain import Recipe\nrecipe = Recipe()\n")
    (tmp_path / f"{broken}.py").write_text("\nx = (:\n")
    assert main(["recipes", "copy", str(tmp_path / "mine.py"), str(tmp_path / "copy")]) == 2
    error = capsys.readouterr().err
    assert error == f"error: SyntaxError: invalid syntax ({broken}.py, line 2) ({tmp_path / broken}.py:2)\n"
    assert not (tmp_path / "copy").exists()


def test_recipes_that_import_each_other_and_one_in_another_encoding_are_copied(tmp_path, capsys):
    (tmp_path / "one.py").write_bytes(b"# coding: latin-1\n# \xe9\nfrom two import x\n")
    (tmp_path / "two.py").write_text("from one import y\n")
    assert main(["recipes", "copy", str(tmp_path / "one.py"), str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_a_recipe_of_ones_own_varies_a_shipped_one(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from lbtrain import load_recipe, main\n"
        'recipe = load_recipe("digits/digits_720").vary(batch_size=352)\n'
        'if __name__ == "__main__":\n    main(recipe)\n'
    )
    assert load_recipe(own).bn_momentum == 0.5
    shown = run("plan", "own.py", "--gpus", "2", "max_micro_batch_size=88", cwd=tmp_path)
    assert shown.returncode == 0 and "352" in shown.stdout and "88 x 2" in shown.stdout, shown.stderr
    assert "batch_size  720 -> 352" in run("diff", "own.py", cwd=tmp_path).stdout


def test_the_difference_is_that_of_the_file_and_of_all_parents(capsys):
    assert main(["diff", "imagenet/resnet50_8k"]) == 0
    parent, defaults, sources = capsys.readouterr().out.split("\n\n")
    assert parent.splitlines() == ["What differs from its parent resnet50:", "  batch_size  256 -> 8192"]
    assert "  data.name" in defaults and "digits -> imagenet" in defaults
    own, baseline = sources.split("\n  resnet50: ")
    assert "(Goyal et al. 2017, Table 1 and Figure 2c). Differs: in what resnet50 lists." in own
    assert "Table 1). Differs: crops are resampled" in " ".join(baseline.split())


@pytest.mark.parametrize(
    "source",
    [
        '"""Not load_recipe("digits/digits")."""\nfrom lbtrain import load_recipe\n'
        'other = load_recipe("digits/digits")\nrecipe = load_recipe("digits/digits_720").vary(seed=3)\n',
        "import lbtrain\nfrom other import recipe as unused\n"
        'parent = lbtrain.load_recipe("digits_720")\nrecipe = parent.vary(seed=3)\n',
        "from lbtrain import load_recipe\nfrom digits_720 import recipe as parent\n"
        'other = load_recipe("digits/digits")\nrecipe = parent.vary(seed=other.seed).vary(seed=3)\n',
    ],
)
def test_the_parent_is_what_the_recipe_begins_with(source, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(source)
    for name in ("other", "digits_720"):
        (tmp_path / f"{name}.py").write_text("from lbtrain import Recipe\nrecipe = Recipe()\n")
    parent = parent_of(own)
    assert parent is not None and parent.stem == "digits_720"


def test_a_long_difference_is_printed_whole(tmp_path, capsys):
    names = [f"layer{number}.*" for number in range(40)]
    source = f"from lbtrain import Recipe\nrecipe = Recipe().vary(optimizer=dict(no_decay={names}))\n"
    (tmp_path / "own.py").write_text(source)
    assert main(["diff", str(tmp_path / "own.py")]) == 0
    assert f"  optimizer.no_decay  norm,bias -> {','.join(names)}\n" in capsys.readouterr().out


def test_a_copy_differs_in_nothing_and_each_line_is_indented(tmp_path, capsys):
    (tmp_path / "plain.py").write_text('"""Plain."""\nfrom lbtrain import Recipe\nrecipe = Recipe()\n')
    assert main(["diff", str(tmp_path / "plain.py")]) == 0
    assert capsys.readouterr().out.startswith("What differs from the defaults:\n  nothing\n\n")


def test_the_path_is_the_file(capsys):
    assert main(["recipes", "path", "digits_720"]) == 0
    assert capsys.readouterr().out == f"{(RECIPES / 'digits/digits_720.py').resolve()}\n"


def test_training_by_name_is_training_the_file(tmp_path):
    ended = run(
        "train", "digits", "duration=1it", "schedule.warmup=1it", "run_dir=run", "engine=ddp", cwd=tmp_path
    )
    assert ended.returncode == 0 and (tmp_path / "run/summary.json").exists(), ended.stderr
    assert "optimizer.momentum=0.9" in run("train", "digits", "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_says_what_it_does(tool):
    shown = run(tool, "--help")
    assert shown.returncode == 0 and "usage" in shown.stdout.lower() and len(shown.stdout) > 200, shown.stderr


def test_help_and_lists_import_no_torch():
    check = "import sys; from lbtrain.cli import main; main(['recipes']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=60).returncode == 0
    shown = run("--help")
    assert shown.returncode == 0 and all(tool in shown.stdout for tool in (*TOOLS, "train", "plan", "diff"))
    assert run("--version").stdout == f"lbtrain {lbtrain.__version__}\n"


@pytest.mark.parametrize(
    "words", [["recipes"], ["diff", "digits/digits_720"], ["train", "digits/digits", "--help"]]
)
def test_output_that_is_read_no_further_ends_quietly(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lbtrain", *words]
    with os.fdopen(writer) as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", ["train", "plan"])
def test_only_the_recipe_is_asked_for(command, capsys):
    with pytest.raises(SystemExit):
        main([command])
    assert "required: NAME_OR_FILE\n" in capsys.readouterr().err
