"""Published networks: their names, and fetching their files from the Hugging Face Hub. Needs no PyTorch."""
