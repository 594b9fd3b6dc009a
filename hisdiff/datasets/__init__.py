"""Data sets to start from."""

from hisdiff.datasets._hest import hest
from hisdiff.datasets._toy import toy, toy_draws

__all__ = ["hest", "toy", "toy_draws"]
