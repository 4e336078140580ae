"""Check the hosts of a hostfile before a launch: `python -m tools.doctor --help`."""
