"""A run stops well: losses that are not finite, signals, and ranks, hosts or launchers that are lost."""
