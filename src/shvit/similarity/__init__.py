"""What is alike: search in embeddings, pictures that are there twice, labels that look wrong."""
