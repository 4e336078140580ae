"""The guard of one rank: a small process beside it that notices when a part of the job is lost, and ends its
own rank then.

A rank that is stopped, or waits in an exchange for a peer that is gone, cannot help itself; its guard can.
Guards keep to themselves: no torch, no collective, only the standard library, and one connection each to the
coordinator in rank 0's guard. Every heartbeat carries the rank's last step. The coordinator decides what was
lost and tells all; a guard whose coordinator is silent or gone ends its rank by itself.

Time is counted in heartbeats that a guard lived through, so that a pause of the whole job (Ctrl-Z, a
suspended machine) is no fault.

protocol.py      what a rank, its guard and the coordinator agree on, and who may speak
coordinator.py   hears all guards, and decides
guard.py         watches one rank, and ends it

A guard runs as a program (`__main__.py`) and as the top-level package `guard`: importing `lbtrain` would take
longer than its rank may live.
"""
