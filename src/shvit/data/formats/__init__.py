"""One file a format: what labelled images look like on disk. ``shvit.data.datasets`` chooses among them."""
