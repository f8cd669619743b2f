"""Labels, maps and legends drawn on pictures."""
