"""What fits on a machine, how it is laid out, and how fast it may be."""
