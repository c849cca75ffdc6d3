"""The operations on GPUs, as kernels in Triton; TRITON_INTERPRET=1 runs the same on a CPU."""
