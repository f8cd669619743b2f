"""Running model files: decode, preprocess, infer. Nothing here imports PyTorch."""
