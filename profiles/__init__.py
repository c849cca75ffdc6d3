"""Accelerators and machines, as YAML."""
