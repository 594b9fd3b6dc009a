"""Data sets to start from."""

from hisdiff.datasets._hest import hest
from hisdiff.datasets._toy import toy

__all__ = ["hest", "toy"]
