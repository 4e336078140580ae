"""README.md: short, every page and recipe it names is there, and what it shows runs."""

import re
import shlex
from pathlib import Path

import pytest

from lbtrain import errors
from lbtrain.cli import TOOLS, TRAINED
from lbtrain.recipe.files import find_recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (?:recipe=\$\()?(lbtrain [^#)\n]+)", TEXT, re.M)


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 130 and "docs/design.md" not in TEXT


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_leads_somewhere(page):
    text, folder = (ROOT / page).read_text(), (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (folder / link).exists()]


def test_every_command_and_recipe_is_there():
    assert len(COMMANDS) >= 8
    for command in map(shlex.split, COMMANDS):
        assert command[1] in {*TOOLS, *TRAINED, "train", "plan", "recipes", "diff"}
        for word in command:
            if re.fullmatch(r"(digits|imagenet)/\w+", word):
                assert find_recipe(word).is_file()


def test_every_exit_code_is_explained():
    page = (ROOT / "docs/reliability.md").read_text().partition("## Exit codes")[2]
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = {each.exit_code for each in classes if issubclass(each, errors.UserError)}
    assert set(map(int, re.findall(r"^\| (\d+) \|", page, re.M))) == codes - {1}


def test_the_loop_of_ones_own_runs():
    """The code as it stands, then one step of it."""
    import torch
    from torch import nn

    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names = {"model": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4))}
    exec(code, names)
    model, before = names["model"], names["model"][1].running_mean.clone()
    weight = model[0].weight.detach().clone()
    model(torch.randn(64, 3, 8, 8)).square().mean().backward()
    names["optimizer"].step()
    names["statistics"].start()
    names["statistics"].finish()
    assert not torch.equal(model[1].running_mean, before) and not torch.equal(model[0].weight, weight)
