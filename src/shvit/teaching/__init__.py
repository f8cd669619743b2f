"""New classes for a model file from a few photographs: a head on its own features. Never PyTorch."""
