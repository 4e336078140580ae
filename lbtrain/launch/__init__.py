"""How a run is launched: the world that a launcher made, hostfiles, loader processes."""
