"""A section that has only an image."""

from __future__ import annotations

from pathlib import Path

from spatialdata import SpatialData

from hisdiff._arguments import checked
from hisdiff.io._build import attrs_of, image_element, image_key, transformations
from hisdiff.io._names import element_name
from hisdiff.io._orient import turned
from hisdiff.io._raster import open_raster
from hisdiff.io._scale import settle_mpp


@checked
def image(
    path: str | Path, mpp: float | None = None, *, orient: str | None = None, name: str | None = None
) -> SpatialData:
    """Read an H&E image as a section without spots.

    Parameters
    ----------
    path
        TIFF (plain, pyramidal, OME, Aperio svs, Hamamatsu ndpi), png, jpg, or any format that OpenSlide reads (extra
        ``wsi``). TIFF and scanner formats are read lazily, png and jpg are decoded once.
    mpp
        Micrometres per pixel; None for what the file says (OME, Aperio or ImageJ metadata, resolution tags finer than
        10 um).
    orient
        Transformation of the image; see :func:`visium`.
    name
        Name of the section; None for the name of the file.

    Returns
    -------
    An object with the multi-scale image ``{name}_image`` (uint8 RGB, the file's own pyramid if it has one) in the
    coordinate systems ``global`` (pixels) and ``um``.

    Raises
    ------
    ValueError
        If the pixel size is neither given nor in the file, or the file is truncated, has one channel, or is not an RGB image.

    Notes
    -----
    Alpha is laid over white. 16-bit values are scaled from the bit depth that holds the largest, floats from 0 to 1 or 0
    to 255, to 8 bits; this is logged.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.image("slide.svs")  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    raster = turned(open_raster(path), orient)
    mpp = settle_mpp(raster.sources, str(path), mpp)
    original = name or path.name.split(".")[0]
    name = element_name(original)
    element = image_element(raster.levels, transformations(mpp))
    return SpatialData(images={image_key(name): element}, attrs=attrs_of({name: original}))
