"""The guard of one rank: a small process beside it that notices when a part of the job is lost, and ends its
own rank then.

A rank that is stopped, or waits in an exchange for a peer that is gone, cannot help itself; its guard can.
Guards keep to themselves: no torch, no collective, only the standard library, and one connection each to the
hub in rank 0's guard. Every beat carries the rank's last step. The hub decides what was lost and tells all; a
guard whose hub is silent or gone ends its rank by itself.

Time is counted in beats that a guard lived through, so that a pause of the whole job (Ctrl-Z, a suspended
machine) is no fault.

duty.py        what a rank and its guard agree on
rank_guard.py  watches one rank, and ends it
hub.py         hears all guards, and decides
line.py        how they speak
member.py      what the hub knows of a rank
processes.py   what can be seen of a process
verdict.py     what people are told
program.py     a guard from start to end

A rank imports nothing but `duty`; the rest runs as a program (`__main__.py`), as the top-level package
`guard`: importing `lbtrain` would take longer than its rank may live.
"""

from .duty import BOARD, Duty, as_argument

__all__ = ["BOARD", "Duty", "as_argument"]
