"""Serving model files over HTTP, and the client for it. Needs the extra ``serve``; never PyTorch."""
