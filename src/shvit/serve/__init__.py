"""Serving model files over HTTP, and the client for it. Needs ``pip install 'shvit[serve]'``; never PyTorch."""
