"""Find weights in the cache of the Hugging Face hub, or fetch them; say quickly and in full why that fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT_S = 8.0


def fetch_weights(
    repo: str, filenames: Sequence[str], encoder: str, free: Sequence[str], *, gated: bool = False
) -> tuple[Path, str]:
    """Return the local file of an encoder's weights, and the commit it is of.

    What is in the cache is used without asking the hub, so that results do not change when somebody else's repository
    does.

    Parameters
    ----------
    repo
        ``"owner/name"``.
    filenames
        Names that the file may have, best first.
    encoder, free, gated
        For messages: the encoder's name, encoders that need no access, and whether this one does.

    Raises
    ------
    PermissionError
        If the repository is gated and access was not granted or nobody is logged in.
    ConnectionError
        If the weights are not in the cache and the hub cannot be reached, or offline mode forbids to try.
    FileNotFoundError
        If the repository holds none of the files.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    # HfHubHTTPError derives from OSError and from the base error of whichever HTTP client the library is built on.
    transport_errors: tuple[Any, ...] = HfHubHTTPError.__bases__
    for filename in filenames:
        cached = try_to_load_from_cache(repo, filename)
        if isinstance(cached, str):
            return _with_commit(cached)
    instead = f"Encoders that need no access: {', '.join(free)}; 'texture' needs no download either."
    ask = (
        f"Ask for access at https://huggingface.co/{repo}, then log in with `hf auth login` or set HF_TOKEN. {instead}"
    )
    advice = ask if gated else instead
    if _offline():
        raise ConnectionError(
            f"The weights of encoder {encoder!r} ({repo}) are not in the hub's cache, and offline mode (HF_HUB_OFFLINE) "
            f"prevents the download. {advice}"
        )
    for filename in filenames:
        try:
            # Downloads retry for half a minute before they give up; one request tells whether they would succeed.
            size = get_hf_file_metadata(hf_hub_url(repo, filename), timeout=_TIMEOUT_S).size
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as err:
            status = err.response.status_code if getattr(err, "response", None) is not None else None
            if status in {401, 403} or isinstance(err, RepositoryNotFoundError):
                raise PermissionError(
                    f"Encoder {encoder!r} needs access to {repo}, which was not granted. {ask}"
                ) from err
            raise ConnectionError(f"The hub answered for {repo} with: {err}. {advice}") from err
        except transport_errors as err:
            raise ConnectionError(
                f"The weights of encoder {encoder!r} are not in the hub's cache, and {repo} cannot be reached: {err}. "
                f"{advice}"
            ) from err
        logger.info("downloading the weights of encoder %r from %s (%.1f GB)", encoder, repo, (size or 0) / 1e9)
        return _with_commit(hf_hub_download(repo, filename))
    raise FileNotFoundError(f"{repo} holds none of {list(filenames)}, the weights of encoder {encoder!r}. {advice}")


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _with_commit(file: str) -> tuple[Path, str]:
    # The cache keeps files under snapshots/<commit>/<file>.
    path = Path(file)
    return path, path.parent.name
