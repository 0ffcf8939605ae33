"""The paper's figures and examples, recomputed: `run` draws them and tests their claims."""

from .claim import Claim, Experiment
from .runner import Report, UnknownExperimentError, catalogue, run

__all__ = ["Claim", "Experiment", "Report", "UnknownExperimentError", "catalogue", "run"]
