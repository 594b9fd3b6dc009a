"""Readers: files to SpatialData in one form."""

from hisdiff.io._her2st import her2st
from hisdiff.io._image import image

__all__ = ["her2st", "image"]
