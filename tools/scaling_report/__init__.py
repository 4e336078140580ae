"""Measure, predict and explain how training scales: `python -m tools.scaling_report --help`."""
