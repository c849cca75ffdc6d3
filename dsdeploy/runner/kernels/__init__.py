"""Compiled CPU kernels: the register tile, and the loops around it."""
