"""GPU kernels, one folder an op: reference, Triton code, tests. Empty in this version."""
