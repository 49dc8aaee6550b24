"""Weight files as they are on disk: tensors by name, read within stated bounds of memory and time."""
