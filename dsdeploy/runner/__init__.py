"""The native runner: DeepSeek-V3 in PyTorch, the reference that engines are checked against."""

import os

# A thread that has done its part of a loop spins for milliseconds before it sleeps, by default.
# Where another process wants the core, the part that is waited for is then the one that waits:
# decoding became five times slower. Read by libgomp when torch brings it in.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
