"""Readers: files to SpatialData in one form."""

from hisdiff.io._her2st import her2st

__all__ = ["her2st"]
