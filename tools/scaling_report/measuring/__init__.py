"""How `measure` launches a point, times every step of each rank, and reads the times back."""
