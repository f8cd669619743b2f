"""Embeddings of pictures in files."""
