"""How large a batch still pays, and how sharp the minimum is, from a run directory."""
