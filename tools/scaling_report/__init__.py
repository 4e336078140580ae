"""Measure, predict and explain how training scales: `lbtrain scaling-report --help`."""
