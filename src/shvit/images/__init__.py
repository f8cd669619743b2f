"""Pictures: where they are found, how they are decoded, and how they become a network's input. Never PyTorch."""
