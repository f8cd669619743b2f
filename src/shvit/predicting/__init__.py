"""Predictions and explanations of model files, as Python objects. Never PyTorch."""
