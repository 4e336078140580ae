"""One rank of a study: runs every job of a list, one after the other, in one process group. Started by a
launcher, not by hand.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # launchers start this file by its path, from any folder

from lbtrain.errors import Diverged, RecipeError
from lbtrain.launch.world import leave_process_group
from lbtrain.main import run
from lbtrain.runs.directory import RunDirectory
from lbtrain.runs.records import write_whole
from tools.recipe_file import load_recipe
from tools.study.jobs import Job


def check_unchanged(jobs: list[Job]) -> None:
    """Raises RecipeError if a run that ended was of another recipe than its file is now: it would be counted
    as what it is not.
    """
    for job in jobs:
        if not job.ended:
            continue
        recipe = load_recipe(Path(job.recipe)).with_overrides(job.words)
        if changed := RunDirectory(Path(job.run_dir)).changes(recipe):
            raise RecipeError(
                f"{job.run_dir} is of another recipe ({'; '.join(changed)}): choose another --out, or "
                "delete the run"
            )


def work(jobs: list[Job]) -> None:
    """A run that diverges is a result: it leaves diverged.json, and the next one starts."""
    for job in jobs:
        if job.ended:
            continue
        path = Path(job.recipe)
        try:
            run(
                load_recipe(path).with_overrides([*job.words, f"run_dir={job.run_dir}"]),
                path.stem,
                on_screen=False,
            )
        except Diverged as error:
            # Raised on every rank alike. The loop has left its findings there already, if it had any.
            found = Path(job.run_dir) / "diverged.json"
            if os.environ.get("RANK", "0") == "0" and not found.exists():
                write_whole(found, json.dumps({"diverged": str(error)}) + "\n")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    work(
        [
            Job(entry["recipe"], tuple(entry["words"]), entry["run_dir"])
            for entry in json.loads(Path(words[0]).read_text())
        ]
    )
    leave_process_group()
