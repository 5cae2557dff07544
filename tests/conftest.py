"""Read before any test module."""

import tests.kernels.interpreter  # noqa: F401  (Triton must be imported first by what says how)
