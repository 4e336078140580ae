"""One rank of a study: runs every arm and seed, one after the other, in one process group. Started by a launcher, not by hand."""

import runpy
import sys
from pathlib import Path

from lbtrain import Recipe
from lbtrain.cluster.launch import leave_process_group
from lbtrain.main import run


def load_recipe(path: Path) -> Recipe:
    """The `recipe` of a recipe file, which may import its parent from the same folder."""
    sys.path.insert(0, str(path.parent))
    try:
        recipe = runpy.run_path(str(path))["recipe"]
    finally:
        sys.path.remove(str(path.parent))
    assert isinstance(recipe, Recipe)
    return recipe


def work(out: Path, seeds: list[int], arms: list[Path], overrides: list[str]) -> None:
    """Seeds outside, arms inside: a study that is stopped early has compared every arm on the seeds it finished."""
    for seed in seeds:
        for arm in arms:
            run_dir = out / arm.stem / f"seed{seed}"
            if not (run_dir / "summary.json").exists():
                run(load_recipe(arm).with_overrides(overrides).vary(seed=seed, run_dir=str(run_dir)), arm.stem, on_screen=False)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    folder, seed_list, arm_list = words[:3]
    work(Path(folder), [int(seed) for seed in seed_list.split(",")], [Path(arm) for arm in arm_list.split(",")], words[3:])
    leave_process_group()
