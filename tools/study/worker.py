"""One rank of a study: runs every job of a list, one after the other, in one process group. A launcher starts
it through tools/kit/start.py; nobody does by hand.
"""

import json
import os
import sys
from pathlib import Path

from lbtrain.errors import Diverged
from lbtrain.launch.world import leave_process_group
from lbtrain.run import run
from lbtrain.runs.files import write_whole

from .jobs import Job


def work(jobs: list[Job]) -> None:
    """A run that diverges is a result: it leaves diverged.json, and the next one starts."""
    for job in jobs:
        if job.ended:
            continue
        try:
            recipe = job.load().with_overrides([f"run_dir={job.run_dir}"])
            run(recipe, Path(job.recipe).stem, on_screen=False)
        except Diverged as error:
            # Raised on every rank alike. The loop has left its findings there already, if it had any.
            found = Path(job.run_dir) / "diverged.json"
            if os.environ.get("RANK", "0") == "0" and not found.exists():
                write_whole(found, json.dumps({"diverged": str(error)}) + "\n")


if __name__ == "__main__":
    listed = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    work([Job(entry["recipe"], tuple(entry["words"]), entry["run_dir"]) for entry in listed])
    leave_process_group()
