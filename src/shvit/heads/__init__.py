"""Heads on the pooled features of a network that stays as it is. Never PyTorch."""
