"""What people are told: on the screen, and in the faults.log of the run."""

import contextlib
import sys
import time
from collections import defaultdict
from pathlib import Path

from .duty import Duty
from .member import Member


def told(causes: dict[int, str], members: dict[int, Member]) -> str:
    """What was lost, by host and reason: `rank 3 on node02 was lost after step 17 (evaluation): its process
    ended`.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, why in sorted(causes.items()):
        groups[members[rank].host if rank in members else "a host that is not known yet", why].append(rank)
    return "; ".join(_one_group(ranks, host, why, members) for (host, why), ranks in groups.items())


def _one_group(ranks: list[int], host: str, why: str, members: dict[int, Member]) -> str:
    who = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} on {host}"
    known = [members[rank] for rank in ranks if rank in members]
    if not known:
        return f"{who}: {why}"
    last = max(known, key=lambda member: member.step)
    return f"{who} lost after step {last.step}" + (f" ({last.doing})" if last.doing else "") + f": {why}"


def say(text: str, duty: Duty) -> None:
    """Tells the screen and the run directory's faults.log why the job ends, as far as either can still be
    written to.
    """
    with contextlib.suppress(OSError):  # nobody may be there to read it any more
        print(
            f"error: {text}. All ranks end; the same command goes on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
    with contextlib.suppress(OSError), (Path(duty.run_dir) / "faults.log").open("a") as log:
        log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
