"""How good a model file or a checkpoint is on labelled images: figures, tables, pictures, a report."""
