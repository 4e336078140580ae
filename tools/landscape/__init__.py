"""How large a batch still pays, and how sharp the minimum is: what a run directory tells about its landscape."""
