"""At which collective a rank stands, by torch's flight recorder (the ring buffer that NCCL and Gloo groups
fill with every call; TORCH_FR_BUFFER_SIZE is its length).
"""

import json
import sys
from typing import Any

RECORDERS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""What torch names the recorders of NCCL and of the other back ends."""


def last_collective() -> str:
    """The last collective that this rank has called; empty where torch keeps no record of it."""
    calls = [call for name in RECORDERS for call in _recorded(name)]
    if not calls:
        return ""
    last = max(calls, key=lambda call: int(call["time_created_ns"]))
    state = "finished" if last["retired"] else "not finished"
    sizes = " of " + ", ".join(map(str, last["input_sizes"])) if last["input_sizes"] else ""
    return f"collective {last['collective_seq_id']}, {last['profiling_name']}{sizes}, {state}"


def _recorded(recorder: str) -> list[dict[str, Any]]:
    # Not imported: a thread that asks while the main thread imports torch would wait for it.
    dump = getattr(sys.modules.get("torch._C._distributed_c10d"), recorder, None)
    try:
        entries = json.loads(dump()).get("entries", []) if dump else []
        return [entry for entry in entries if not entry["is_p2p"]]
    except (RuntimeError, ValueError, KeyError):
        return []  # a build without this back end, or another format
