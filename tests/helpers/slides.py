"""Small slides in the formats of scanners, which OpenSlide tells by their tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE = 256


def write_ndpi(path: Path, levels: list[np.ndarray], mpp: float) -> None:
    """Write a Hamamatsu slide: one JPEG for each level, in a TIFF with the maker's tags."""
    with tifffile.TiffWriter(path, byteorder="<") as tif:
        for level in levels:
            reduced = levels[0].shape[0] / level.shape[0]
            tif.write(
                np.asarray(Image.fromarray(level).convert("YCbCr")),
                photometric="ycbcr",
                compression="jpeg",
                compressionargs={"level": 95},
                rowsperstrip=level.shape[0],
                resolution=(1e4 / (mpp * reduced),) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                extratags=[
                    (271, "s", None, "Hamamatsu", True),
                    (65420, "I", 1, 1, True),
                    (65421, "f", 1, 20 / reduced, True),  # magnification
                    *((tag, "i", 1, 0, True) for tag in (65422, 65423, 65424)),
                ],
            )


def write_dicom(folder: Path, levels: list[np.ndarray], mpp: float, *, j2k: bool = False, stem: str = "") -> None:
    """Write a slide as a series of DICOM files, one for each level, in tiles of JPEG, or of JPEG 2000 without loss."""
    import imagecodecs
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

    folder.mkdir(exist_ok=True)
    series = generate_uid()
    for number, level in enumerate(levels):
        spacing = mpp * levels[0].shape[0] / level.shape[0] / 1e3
        rows, columns = (-(-side // TILE) for side in level.shape[:2])
        padded = np.full((rows * TILE, columns * TILE, 3), 255, dtype=np.uint8)
        padded[: level.shape[0], : level.shape[1]] = level
        tiles = padded.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
        if j2k:
            coded = [imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k", mct=False) for tile in tiles]
        else:
            coded = [
                imagecodecs.jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace="YCBCR", subsampling="422")
                for tile in tiles
            ]
        data, measures, shared, path = Dataset(), Dataset(), Dataset(), Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless if j2k else JPEGBaseline8Bit
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.Modality = series, "SM"
        data.ImageType = ["DERIVED" if number else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"]
        data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = level.shape[:2]
        data.TotalPixelMatrixFocalPlanes = 1
        data.DimensionOrganizationType = "TILED_FULL"
        data.Rows = data.Columns = TILE
        data.NumberOfFrames, data.SamplesPerPixel, data.PlanarConfiguration = len(tiles), 3, 0
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
        data.PhotometricInterpretation = "RGB" if j2k else "YBR_FULL_422"
        measures.PixelSpacing = [spacing, spacing]
        shared.PixelMeasuresSequence, data.SharedFunctionalGroupsSequence = [measures], [shared]
        path.OpticalPathIdentifier, path.ObjectiveLensPower, data.OpticalPathSequence = "1", 20.0, [path]
        data.PixelData = encapsulate(coded)
        data["PixelData"].VR = "OB"
        data.save_as(folder / f"{stem}{number}.dcm", enforce_file_format=True)
