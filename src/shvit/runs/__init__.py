"""What a training run leaves to look at: writing (which needs PyTorch), reading, comparing and drawing it."""
