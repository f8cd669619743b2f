"""From video to events: complete, as fast as it goes, or live, with a bounded delay."""
