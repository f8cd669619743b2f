"""What a training run leaves to look at: reading, comparing and drawing it. Needs no PyTorch."""
