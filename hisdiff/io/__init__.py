"""Readers: files to SpatialData in one form."""

from hisdiff.io._adopt import adopt
from hisdiff.io._anndata import from_anndata
from hisdiff.io._external import features
from hisdiff.io._her2st import her2st
from hisdiff.io._hest import hest
from hisdiff.io._image import image
from hisdiff.io._save import save
from hisdiff.io._visium import visium
from hisdiff.io._visium_hd import visium_hd
from hisdiff.io._xenium import xenium

__all__ = ["adopt", "features", "from_anndata", "her2st", "hest", "image", "save", "visium", "visium_hd", "xenium"]
