"""Whole collections of images to Parquet: in one process, on all cores, or on a Ray cluster."""
