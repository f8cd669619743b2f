"""From video to events: frames, streams and cameras; complete, as fast as it goes, or live, with a bounded delay."""
