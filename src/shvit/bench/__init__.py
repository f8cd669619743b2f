"""How fast, how large and how memory-hungry networks are, measured beside each other."""
