"""Checkpoints as bytes: reading, checking, writing."""
