"""Random checkpoints of the architecture, for demos, tests and rehearsals."""
