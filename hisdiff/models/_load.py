"""Load models from folders and from the hub."""

from __future__ import annotations

import re
from pathlib import Path

from hisdiff._arguments import checked
from hisdiff.models._model import Model


@checked
def load(path_or_hub_id: str | Path, *, revision: str | None = None, token: str | None = None) -> Model:
    """Load a fitted model.

    Parameters
    ----------
    path_or_hub_id
        Folder that :meth:`Model.save` wrote, or ``"owner/name"`` of a repository on the Hugging Face hub.
    revision
        Branch, tag or commit on the hub; None for the newest.
    token
        Access token for the hub, or None for the one that ``hf auth login`` stored.

    Returns
    -------
    The model. Nothing is unpickled.

    Raises
    ------
    FileNotFoundError
        If there is neither such a folder nor such a repository.
    ValueError
        If a file is damaged, or the folder holds no hisdiff model.

    Examples
    --------
    >>> import hisdiff as hd
    >>> model = hd.tl.fit(hd.datasets.toy(size_um=400), method="ridge", save="my-model")
    >>> hd.models.load("my-model").id == model.id
    True
    """
    path = Path(path_or_hub_id).expanduser()
    if path.exists():
        return Model.load(path)
    name = str(path_or_hub_id)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(f"There is no folder {name!r}, and it is not a hub id of the form 'owner/name'.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*.safetensors"]
    try:
        folder = snapshot_download(name, revision=revision, token=token, allow_patterns=wanted)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no folder {name!r}, and the hub cannot be reached (or offline mode is on) and it is not in the cache."
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"There is no folder {name!r}, and the hub returned: {error}") from error
    return Model.load(folder)
