"""The house: imports run one way, nothing names the machine it was written on, planning needs no engine."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("lbtrain", "recipes", "tools", "bench", "hostfiles", "docs", "tests")
OUTSIDE = {"recipes", "tools", "bench", "tests"}

# What each part of lbtrain may import from the rest of it. `errors` and `recipe` (the data that all speak
# about) are open to all.
BELOW = {
    "errors": set(),
    "console": set(),
    "output": set(),
    "recipe": set(),
    "plan.schedules": set(),
    "plan.scaling": {"plan.schedules"},
    "plan.precision": set(),
    "plan.batching": set(),
    "plan.phases": {"plan.batching", "plan.scaling"},
    "plan.statistics": {"data", "nn", "optim", "tasks"},
    "plan.validate_engine": set(),
    "plan.validate_split": {"plan.batching"},
    "plan.validate": {"plan.scaling", "plan.validate_engine"},
    "plan.plan": {"plan", "data"},
    "plan.report": {"plan"},
    "nn": set(),
    "launch": set(),
    "faults.guard": set(),
    "faults.collectives": set(),
    "faults.watchdog": {"faults.collectives", "faults.guard", "launch"},
    "faults.stopping": {"faults.watchdog"},
    "faults.finite": {"data", "engines", "optim", "plan", "runs.files"},
    "faults.layers": set(),
    "faults.training": {"data", "engines", "faults", "plan"},
    "optim": {"nn"},
    "data": {"launch"},
    "tasks": {"data", "nn", "runs.checkpoint_files"},
    "analysis": {"optim"},
    "engines": {"launch", "plan", "nn", "optim"},
    "runs.provenance": set(),
    "runs.files": set(),
    "runs.rows": {"runs.files"},
    "runs.screen": {"runs.rows"},
    "runs.summary_csv": {"runs.files"},
    "runs.trackers": set(),
    "runs.records": {"runs.files", "runs.rows", "runs.screen", "runs.summary_csv", "runs.trackers"},
    "runs.banners": {"plan", "runs.provenance"},
    "runs.best": {"runs.checkpoint_files", "runs.files"},
    "runs.checkpoint_files": {"runs.files"},
    "runs.legs": {"runs"},
    "runs.fingerprint": {"engines", "plan", "runs"},
    "runs.progress": set(),
    "runs.loading": {"engines", "runs.progress"},
    "runs.checkpoint": {"engines", "runs"},
    "runs.directory": {"engines", "plan", "runs"},
    "techniques": {"analysis", "data", "engines", "plan", "runs", "tasks"},
    "monitors": {"analysis", "data", "engines", "optim", "plan", "runs", "tasks"},
    "evaluate": {"engines", "monitors", "plan", "runs", "tasks", "techniques"},
    "train": {"engines", "evaluate", "faults", "monitors", "nn", "plan", "runs", "tasks", "techniques"},
    "trained": {"data", "engines", "faults", "launch", "runs", "tasks"},
    "cli": {"launch", "runs.files"},
    "__main__": {"cli"},
    "main": {"data", "engines", "faults.watchdog", "launch", "plan", "run", "tasks"},
    "run": {
        "data",
        "engines",
        "faults",
        "launch",
        "monitors",
        "nn",
        "optim",
        "plan",
        "runs",
        "tasks",
        "techniques",
        "train",
    },
}
"""By the longest name that matches: a name stands for all that lies in it."""
OPEN_TO_ALL = {"console", "errors", "output", "recipe"}


def imported(path: Path, package: str) -> set[str]:
    """Absolute names of the modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] + "." if node.level else ""
            module = f"{base}{node.module or ''}".rstrip(".")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def part(module: str) -> str:
    """The longest entry of BELOW that `module` lies in."""
    inside = module.partition(".")[2]
    return max((name for name in BELOW if f"{inside}.".startswith(f"{name}.")), key=len, default="")


def may(own: str, other: str) -> bool:
    return other.partition(".")[0] in OPEN_TO_ALL or any(
        f"{other}.".startswith(f"{name}.") for name in (own, *BELOW.get(own, ()))
    )


def violations(root: Path) -> list[str]:
    """Every import in root/lbtrain that goes the wrong way."""
    found = []
    for path in sorted((root / "lbtrain").rglob("*.py")):
        package = ".".join(path.relative_to(root).parent.parts)
        own = part(".".join(path.relative_to(root).with_suffix("").parts))
        if path == root / "lbtrain/__init__.py":
            continue
        for name in sorted(imported(path, package)):
            top = name.split(".")[0]
            if top in OUTSIDE or (top == "lbtrain" and part(name) and not may(own, part(name))):
                found.append(f"{path.relative_to(root)} imports {name}")
    return found


def test_imports_run_one_way():
    assert len(list((ROOT / "lbtrain").rglob("*.py"))) > 25
    assert violations(ROOT) == []


def test_every_part_of_the_library_has_its_place():
    modules = [path for path in (ROOT / "lbtrain").rglob("*.py") if path.name != "__init__.py"]
    homeless = [
        name for path in modules if not part(name := ".".join(path.relative_to(ROOT).with_suffix("").parts))
    ]
    assert len(modules) > 80 and homeless == [], "give the new part its place in BELOW"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("lbtrain/plan/schedules.py", "from lbtrain.train import train"),
        ("lbtrain/optim/lars.py", "from ..engines import create_engine"),
        ("lbtrain/optim/lars.py", "from .. import engines"),
        ("lbtrain/nn/ghost_bn.py", "import lbtrain.plan.plan"),
        ("lbtrain/engines/ddp.py", "def late():\n    from lbtrain.train import train"),
        ("lbtrain/main.py", "import tools.scaling_report"),
        ("lbtrain/recipe/schema.py", "from recipes.digits import recipe"),
        ("lbtrain/train.py", "from lbtrain import main"),
    ],
)
def test_the_check_sees_a_planted_violation(tmp_path, file, line):
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(line + "\n")
    assert len(violations(tmp_path)) >= 1


def test_the_check_lets_the_right_direction_pass(tmp_path):
    for file, line in {
        "train.py": "from lbtrain.engines import Engine",
        "optim/lars.py": "from .layerwise import Layerwise",
    }.items():
        planted = tmp_path / "lbtrain" / file
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text(line + "\n")
    assert violations(tmp_path) == []


def test_the_tools_import_each_other_relatively():
    """So that they are one code as `tools` in a checkout and as `lbtrain.tools` installed."""
    files = list((ROOT / "tools").rglob("*.py"))
    assert len(files) > 30
    absolute = re.compile(r"^ *(?:from|import) tools\b", re.MULTILINE)
    assert [str(path) for path in files if absolute.search(path.read_text())] == []


def test_a_module_of_a_package_is_imported_by_its_own_name():
    """`import importlib` alone has importlib.util only where somebody else has imported it."""
    used = re.compile(r"\b(?:importlib|urllib|concurrent|xml)\.[a-z]+(?=\.)")
    missing, found = [], 0
    for path in (path for top in ("lbtrain", "tools", "bench", "lab") for path in (ROOT / top).rglob("*.py")):
        text = path.read_text()
        names = set(used.findall(text))
        found += len(names)
        missing += [
            f"{path}: {name}" for name in names if not re.search(rf"^ *(import|from) {name}\b", text, re.M)
        ]
    assert found > 5 and missing == []


def written_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_make_lists_its_targets_and_cleans_no_run():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([\w-]+) ", printed, re.MULTILINE)) == targets - {"help"}
    planned = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    removed = planned.stdout.split()
    assert ".mypy_cache" in removed and "runs" not in removed


def test_no_file_names_the_machine_it_was_written_on():
    files = written_files()
    assert len(files) > 60
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        if path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".csv", ".yaml", ".html", "")
        and path.name != Path(__file__).name
        for match in [
            re.search(
                rf"(?<![\w.])(/root/|/home/\w|/Users/\w|{re.escape(str(ROOT))}|/work/)",
                path.read_text(errors="replace"),
            )
        ]
        if match
    ]
    assert found == []


WITHOUT_ENGINE = (
    "import lbtrain",
    "import lbtrain.optim, lbtrain.plan.schedules, lbtrain.data.stream, lbtrain.nn",
    "from lbtrain import Recipe; from lbtrain.plan.plan import make_plan; "
    "make_plan(Recipe().vary(model=dict(name='cifar_resnet8')), 4)",
    "from lbtrain import Recipe; from lbtrain.plan.plan import make_plan; from "
    "lbtrain.engines.deepspeed_config import complete_config; "
    "complete_config(make_plan(Recipe().vary(model=dict(name='cifar_resnet8')), 4, engine='deepspeed'))",
)


def test_the_library_and_its_plans_import_no_engine():
    engines = "print(sorted({'deepspeed', 'accelerate', 'colossalai'} & set(sys.modules)))"
    check = "\n".join(["import sys", *(f"{code}\n{engines}" for code in WITHOUT_ENGINE)])
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n" * len(WITHOUT_ENGINE), "")


def test_importing_lbtrain_imports_no_torch():
    """So that a typo on the command line is answered at once."""
    check = "import lbtrain, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, timeout=120).returncode == 0
