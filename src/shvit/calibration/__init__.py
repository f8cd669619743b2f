"""When a model's scores are answers: temperature, thresholds, and what is none of its classes. Never PyTorch."""
