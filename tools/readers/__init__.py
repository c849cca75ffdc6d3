"""Reads an engine's parser from its source text. Nothing of an engine is ever imported or run."""
