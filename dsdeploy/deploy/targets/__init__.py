"""One file for each way to run a Launch. Every one is a pure function of it, and quotes for itself."""
