"""Solvers of sparse models on the host, in NumPy."""

from .working_set import Outcome, Problem, working_set

__all__ = ["Outcome", "Problem", "working_set"]
