"""Samples of HEST-1k from the hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hisdiff._arguments import checked
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._settings import settings
from hisdiff.io._hest import FILES
from hisdiff.io._hest import hest as read_hest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spatialdata import SpatialData

REPOSITORY = "MahmoodLab/hest"


def _numbered(stem: str, first: int, last: int, without: tuple[int, ...] = ()) -> tuple[str, ...]:
    return tuple(f"{stem}{i}" for i in range(first, last + 1) if i not in without)


STUDIES = {
    "her2st": _numbered("SPA", 119, 154),
    "cscc": _numbered("NCBI", 759, 770),
    "prad": _numbered("MEND", 139, 162, without=(155,)),
    "dlpfc": _numbered("MISC", 1, 12),
}
"""Samples of the four data sets of the HisDiff study."""
TESTED_ON = {"her2st": "SPA148", "cscc": "NCBI759", "prad": "MEND145", "dlpfc": "MISC2"}
"""The sample of each that the study left out."""


@checked
def hest(ids: str | Sequence[str], path: str | Path | None = None) -> list[SpatialData]:
    """Download samples of HEST-1k that are not there yet, and read them.

    Parameters
    ----------
    ids
        Sample ids, such as ``["SPA148", "SPA149"]``, one id, or the name of a data set of the HisDiff study:
        ``"her2st"`` (36 sections of breast tumours), ``"cscc"`` (12, skin), ``"prad"`` (23, prostate) or ``"dlpfc"`` (12,
        brain).
    path
        Folder for the files, in the layout of the collection; None for ``hest`` in the cache of hisdiff. One sample
        takes about 0.1 to 1 GB.

    Returns
    -------
    One object per sample, as :func:`hisdiff.io.hest` gives it.

    Raises
    ------
    ValueError
        If a name is neither a sample id nor a data set.
    PermissionError
        If the hub gives no access: the collection has to be asked for, and the machine logged in.
    ConnectionError
        If the hub cannot be reached, or offline mode is on, and files are missing.
    KeyError
        If the hub has no such sample.

    Notes
    -----
    The collection is under CC BY-NC-SA 4.0, and access is granted on request at
    https://huggingface.co/datasets/MahmoodLab/hest.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sections = hd.datasets.hest("cscc", "hest")  # doctest: +SKIP
    """
    samples = _samples(ids)
    folder = settings.cache_dir / "hest" if path is None else Path(path).expanduser()
    missing = [sample for sample in samples if _lacks(folder, sample)]
    if missing:
        _download(missing, folder)
    return [read_hest(folder, sample) for sample in samples]


def _samples(ids: str | Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        ids = STUDIES.get(ids.lower(), [ids])
    ids = list(ids)
    if not ids:
        raise ValueError("No sample is given; give sample ids or the name of a data set.")
    for sample in ids:
        if not isinstance(sample, str):
            raise TypeError(f"Sample ids are strings such as 'SPA148', not {type(sample).__name__} {sample!r}.")
        if not re.fullmatch(r"[A-Z]+\d+", sample):
            close = difflib.get_close_matches(sample.lower(), STUDIES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{sample!r} is neither a sample id (such as 'SPA148') nor a data set {listing(STUDIES)}.{hint}"
            )
    return ids


def _lacks(folder: Path, sample: str) -> list[str]:
    return [pattern.format(sample) for pattern in FILES.values() if not (folder / pattern.format(sample)).exists()]


def _download(samples: list[str], folder: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = [file for sample in samples for file in _lacks(folder, sample)]
    logger.info("Downloading %d files of %d samples of %s to %s.", len(wanted), len(samples), REPOSITORY, folder)
    try:
        huggingface_hub.snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=wanted, local_dir=folder)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise PermissionError(
            f"The hub gives no access to {REPOSITORY}. Ask for it at https://huggingface.co/datasets/{REPOSITORY}, log in "
            f"with `hf auth login` (or set HF_TOKEN), and try again; or copy {listing(wanted, 3)} to {folder} by hand."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise ConnectionError(
            f"{listing(samples, 3)} are not in {folder}, and the hub cannot be reached or offline mode is on: {error}"
        ) from error
    absent = [sample for sample in samples if _lacks(folder, sample)]
    if absent:
        raise KeyError(f"{REPOSITORY} has no complete sample {listing(absent)}.")
