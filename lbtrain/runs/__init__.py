"""What a run leaves on disk: its directory, checkpoints, records, and where its numbers come from."""
