"""What a user or a file writes is data: no word reaches a shell, no checkpoint and no YAML runs code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lbtrain import Recipe
from lbtrain.errors import LaunchError, RecipeError
from lbtrain.launch.hostfile import Hostfile, HostfileError, read_hostfile
from lbtrain.runs.checkpoint import Checkpoints
from lbtrain.runs.progress import Progress
from tools.scaling_report.measuring import launchers

ROOT = Path(__file__).parents[2]
WORDS = [
    "$(touch {0})",
    "`touch {0}`",
    "; touch {0};",
    "| touch {0}",
    "&& touch {0}",
    ("\n touch {0}\n"),
    "> {0}",
    "'; touch {0}; '",
    '"; touch {0}; "',
]
HOSTS = Hostfile(("node01", "node02"), 1)


def of_two_hosts(launcher: str, words: list[str]) -> list[list[str]]:
    return launchers.commands(launcher, HOSTS, words, hostfile=Path("hosts"), port=29500, timeout_s=5)


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate", "slurm"])
@pytest.mark.parametrize("form", WORDS)
def test_words_arrive_as_they_were_written(tmp_path: Path, launcher: str, form: str):
    """The text that ssh or srun hands to a shell is given to one here, with a program in the launcher's place
    that prints its last word.
    """
    made = tmp_path / "made"
    word = f"run_dir={form.format(made)}"
    for command in of_two_hosts(launcher, ["recipe.py", word]):
        text = command[-1].replace(
            sys.executable, f"{sys.executable} -c 'import sys; print(repr(sys.argv[-1]))'"
        )
        said = subprocess.run(
            ["sh", "-c", text], capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path
        ).stdout
        assert ast.literal_eval(said) == word
    assert not made.exists()


@pytest.mark.parametrize("word", ["run_dir='; touch made; '", "-x;touch made"])
def test_what_deepspeed_would_not_quote_is_rejected(word: str):
    with pytest.raises(LaunchError, match="would hand this to a shell on each host"):
        of_two_hosts("deepspeed", ["recipe.py", word])


@pytest.mark.parametrize(
    "name",
    ["$(touch made)", "a;touch made", "`touch made`", "-oProxyCommand=touch made", "a b", "a'b", "a\tb|c"],
)
def test_host_names_are_names(tmp_path: Path, name: str):
    path = tmp_path / "hosts"
    path.write_text(f"{name} slots=1\n")
    with pytest.raises(HostfileError):
        read_hostfile(path)


class Evil:
    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (self.made,))


def test_a_checkpoint_that_holds_code_runs_none(tmp_path: Path):
    """Somebody put an object where a tensor belongs, and the right checksum beside it."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    state = {
        "model": {"weight": Evil(tmp_path / "made")},
        "optimizer": {},
        "loss_scale": 1.0,
        "loss_scale_steps": 0,
    }
    checkpoints.save(state, Progress(32, 1), "")
    checkpoints.wait()
    with pytest.raises(RecipeError, match="it cannot be read \\(Weights only load failed"):
        checkpoints.newest()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text", ["{a: !!python/object/apply:os.system [touch made]}", "{a: !!python/name:os.system }"]
)
def test_a_recipe_in_yaml_makes_no_objects(text: str):
    with pytest.raises(RecipeError):
        Recipe().with_overrides([f"model.args={text}"])


RESTRICTED = ROOT / "lbtrain/tasks/pickles.py"
"""Reads pickles with an Unpickler that knows arrays only; tests/unit/test_pickles.py tries to get past it."""


def test_every_load_is_safe():
    """No torch.load without weights_only=True, no pickle, no unsafe YAML, no shell=True in what ships."""
    loads = 0
    for path in [
        path for folder in ("lbtrain", "tools", "recipes", "bench") for path in (ROOT / folder).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                unsafe = {"pickle", "dill", "cloudpickle"} & set(names)
                assert not unsafe or path == RESTRICTED, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("shell", "False") == "False" and called not in (
                    "os.system",
                    "os.popen",
                    "eval",
                    "exec",
                ), path
                assert called not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"), path
                if called == "torch.load":
                    loads += 1
                    assert given.get("weights_only") == "True", path
    assert loads >= 3
