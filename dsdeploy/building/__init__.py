"""A planned checkpoint to files on disk, whole or not at all."""
