"""The wheel, installed beside the packages of this environment and used from a folder that is no checkout."""

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lbtrain

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def succeed(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, f"{words}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the tracked files alone, as they are now."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    offline = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    succeed(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", folder, "./source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """The bin folder of an environment that has the wheel, and sees the packages of this one."""
    home = wheel.parent / "environment"
    succeed(sys.executable, "-m", "venv", "--without-pip", home, cwd=wheel.parent)
    (packages,) = home.glob("lib/python3*/site-packages")
    others = [site.getsitepackages()[0], *sys.path]
    (packages / "others.pth").write_text(
        "".join(f"{path}\n" for path in dict.fromkeys(others) if Path(path).name == "site-packages")
    )
    pip = (
        "-m",
        "pip",
        "--python",
        home / "bin/python",
        "install",
        "--ignore-installed",
        "--no-deps",
        "--quiet",
    )
    succeed(sys.executable, *pip, wheel, cwd=wheel.parent)
    return home / "bin"


def test_one_package_with_all_that_a_user_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"lbtrain-{lbtrain.__version__}-")
    assert {name.split("/")[0] for name in names} == {"lbtrain", f"lbtrain-{lbtrain.__version__}.dist-info"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {name for name in tracked.splitlines() if (ROOT / name).is_file()}
    beside = {f"lbtrain/{name}" for name in ours if name.startswith(("tools/", "recipes/", "hostfiles/"))}
    library = {name for name in ours if name.startswith("lbtrain/")}
    assert {name for name in names if name.startswith("lbtrain/")} == library | beside
    assert "lbtrain/py.typed" in names and len(beside) > 100
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_is_used_from_anywhere(installed, tmp_path):
    script = "import lbtrain, lbtrain.tools.study; print(lbtrain.__file__, lbtrain.tools.study.__file__)"
    places = succeed(installed / "python", "-c", script, cwd=tmp_path).split()
    assert all(place.startswith(str(installed.parent)) for place in places), places

    plan = succeed(installed / "lbtrain", "plan", "imagenet/resnet50_8k", "--gpus", "8,256", cwd=tmp_path)
    assert "8,192" in plan and "32 x 1" in plan
    succeed(installed / "lbtrain", "recipes", "copy", "digits/digits_720", "own", cwd=tmp_path)
    words = ["own/digits_720.py", "duration=3it", "schedule.warmup=1it", "run_dir=run"]
    succeed(installed / "python", *words, cwd=tmp_path)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["step"], summary["engine"]) == (3, "ddp")

    words = ["study", "digits/digits", "duration=3it", "schedule.warmup=1it", "--seeds", "1"]
    words += ["--launcher", "python", "--ranks", "1", "--out", "compared"]
    succeed(installed / "lbtrain", *words, cwd=tmp_path)
    assert (tmp_path / "compared/study.html").exists()
