"""What other programs write about a run: their logs, profiler traces and tables."""
