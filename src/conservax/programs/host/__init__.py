"""The host engine: solves and differentiates with NumPy and LAPACK, and tells JAX."""
