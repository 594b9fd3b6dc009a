"""Data sets to start from."""

from hisdiff.datasets._toy import toy

__all__ = ["toy"]
