"""Imported by the server that forks loader processes (lbtrain.launch.workers) when it starts, and by nobody
else.
"""

import os

import lbtrain.data  # noqa: F401  so that no worker has to

# Signals to a rank's process group (Ctrl-C, a scheduler's) are for the rank: it makes a last step, saves, and
# needs its workers meanwhile.
os.setsid()
