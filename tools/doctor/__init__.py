"""Check the hosts of a hostfile before a launch: `lbtrain doctor --help`."""
