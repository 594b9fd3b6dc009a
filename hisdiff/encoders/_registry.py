"""Encoders by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hisdiff._arguments import checked
from hisdiff._check import listing, one_of
from hisdiff._log import logger
from hisdiff.encoders._base import Encoder, EncoderSpec, dense_spec_of
from hisdiff.encoders._joined import JOIN, JoinedEncoder
from hisdiff.encoders._recipes import RECIPES
from hisdiff.encoders._texture import TextureEncoder
from hisdiff.encoders._texture_forms import FORMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from hisdiff._section import FeatureSpec
    from hisdiff.encoders._base import DenseEncoder

_LOCAL = "local-dir:"
_HIPT = "hipt:"
_TEXTURES = {form.name: form for form in FORMS}
_SPECS: dict[str, EncoderSpec] = {form.name: form.spec for form in FORMS}
_SPECS |= {name: recipe.spec for name, recipe in RECIPES.items()}
_REMEMBERED: dict[EncoderSpec, Encoder] = {}
"""Objects of the user's: later steps find the one that made an embedding by what is recorded of it."""


def names() -> list[str]:
    """Return the names of the encoders that :func:`get` knows, sorted.

    Examples
    --------
    >>> import hisdiff as hd
    >>> "texture" in hd.encoders.list()
    True
    """
    return sorted(_SPECS)


@checked
def get(encoder: str | Encoder | Sequence[str | Encoder]) -> Encoder:
    """Return an encoder.

    Parameters
    ----------
    encoder
        One of :func:`list`; ``"local-dir:FOLDER"`` for a timm model in a folder (``config.json`` beside
        ``model.safetensors`` or ``pytorch_model.bin``; ``mpp`` in the configuration, else 0.5 um per pixel);
        ``"hipt:FOLDER"`` for the pair of transformers that iStar was published with (``vit256*`` and ``vit4k*``); or an
        object with ``spec`` and ``encode``, which is returned unchanged and remembered for the lifetime of the process, so that
        later steps find it by the name, revision and size in its ``spec``. Several of these, or names with ``"+"`` between
        them, are joined into one that gives their vectors one after the other.

    Returns
    -------
    The encoder. Weights are downloaded to the cache of the hub before this returns, and loaded on first use.

    Raises
    ------
    ValueError
        If there is no encoder of that name.
    TypeError
        If the object is not an encoder.
    PermissionError
        If the weights are gated and access was not granted.
    ConnectionError
        If the weights are not in the hub's cache and cannot be fetched.
    FileNotFoundError
        If a local folder does not exist or lacks its files.

    Examples
    --------
    >>> import hisdiff as hd
    >>> hd.encoders.get("texture").spec.licence
    'BSD-3-Clause'
    """
    if isinstance(encoder, (tuple, list)):
        return _remember(_joined(encoder))
    if not isinstance(encoder, str):
        if isinstance(encoder, type) or not isinstance(encoder, Encoder) or not isinstance(encoder.spec, EncoderSpec):
            raise TypeError(
                f"encoder is a name or an object with `spec` (EncoderSpec) and `encode`, not {type(encoder).__name__}."
            )
        return _remember(encoder)
    if encoder.startswith(_LOCAL):
        from hisdiff.encoders import _timm

        return _timm.from_folder(encoder, encoder.removeprefix(_LOCAL))
    if encoder.startswith(_HIPT):
        from hisdiff.encoders import _hipt

        return _hipt.HiptEncoder(encoder.removeprefix(_HIPT))
    if JOIN in encoder:
        return _joined(encoder.split(JOIN))
    one_of(encoder, names(), "encoder")
    if encoder in _TEXTURES:
        return TextureEncoder(_TEXTURES[encoder])
    recipe = RECIPES[encoder]
    free = [name for name in names() if not _SPECS[name].gated and name != encoder]
    if recipe.architecture is None:
        from hisdiff.encoders import _transformers

        return _transformers.from_recipe(recipe, free)
    from hisdiff.encoders import _timm

    return _timm.from_recipe(recipe, free)


def _joined(encoders: Sequence[str | Encoder]) -> Encoder:
    return JoinedEncoder([get(encoder) for encoder in encoders])


def _remember(encoder: Encoder) -> Encoder:
    _REMEMBERED.pop(encoder.spec, None)  # the newest of one spec is the last
    _REMEMBERED[encoder.spec] = encoder
    return encoder


def get_for(encoder: str | Encoder | Sequence[str | Encoder], mpp: float, what: str) -> Encoder:
    """Return an encoder for images of which the coarsest, ``what``, has ``mpp``; ``"texture"`` is taken at the size that it needs."""
    if isinstance(encoder, (tuple, list)):
        return get([get_for(one, mpp, what) for one in encoder])
    if encoder == FORMS[0].name:
        form = next((form for form in FORMS if mpp <= form.coarsest_mpp), FORMS[-1])
        if form is not FORMS[0]:
            logger.info("%s has %.3g um per pixel, so encoder %r is used instead of 'texture'", what, mpp, form.name)
        encoder = form.name
    found = get(encoder)
    check_pixels(found, mpp, what)
    return found


def check_pixels(encoder: Encoder, mpp: float, what: str) -> None:
    """Raise where an image is too coarse for the filters of a texture encoder."""
    for member in getattr(encoder, "members", ()):
        check_pixels(member, mpp, what)
    if not isinstance(encoder, TextureEncoder) or mpp <= encoder.form.coarsest_mpp:
        return
    coarser = [form.name for form in FORMS if mpp <= form.coarsest_mpp]
    if coarser:
        remedy = f"embed all sections, those of a model's training too, with encoder={coarser[0]!r}"
    else:
        remedy = f"images of up to {FORMS[-1].coarsest_mpp:g} can be used; is there a finer one?"
    raise ValueError(
        f"{what} has {mpp:.3g} um per pixel, too coarse for encoder {encoder.spec.name!r}, which takes images of up to "
        f"{encoder.form.coarsest_mpp:.3g}: {remedy}"
    )


def is_of(encoder: EncoderSpec, spec: FeatureSpec) -> bool:
    """Whether an encoder is the one that made an embedding; patches of any side in um are resampled to its pixels."""
    same = (encoder.name, encoder.revision, encoder.dim) == (spec.encoder, spec.revision, spec.dim)
    # Of embeddings taken over from elsewhere the size of a pixel may be unknown, which is 0.
    return same and spec.mpp > 0 and encoder.input_px == round(spec.patch_um / spec.mpp)


def leads_to(encoder: str, spec: FeatureSpec) -> bool:
    """Whether a name is that of the encoder that made an embedding; ``"texture"`` stands for all its sizes."""
    return encoder == spec.encoder or (encoder == FORMS[0].name and spec.encoder in _TEXTURES)


def remembered(spec: FeatureSpec) -> Encoder | None:
    """Return the object of the user's that made an embedding, where this process has seen it."""
    return next((encoder for own, encoder in reversed(_REMEMBERED.items()) if is_of(own, spec)), None)


def is_named(encoder: str) -> bool:
    """Whether :func:`get` knows what a name stands for."""
    return encoder.startswith((_LOCAL, _HIPT)) or all(part in _SPECS for part in encoder.split(JOIN))


def may_be_dense(encoder: str | Encoder) -> bool:
    """Whether an encoder has a dense form, told without its weights; of a local folder only its files would tell."""
    if not isinstance(encoder, str):
        return dense_spec_of(encoder) is not None
    if JOIN in encoder and not encoder.startswith((_LOCAL, _HIPT)):
        return all(may_be_dense(part) for part in encoder.split(JOIN))
    if encoder in RECIPES:
        return RECIPES[encoder].token_px is not None
    return encoder in _TEXTURES or encoder.startswith((_LOCAL, _HIPT))


def require_dense(encoder: Encoder) -> DenseEncoder:
    """Return an encoder that has a dense form; of another, raise ``ValueError`` and name those that have one."""
    if dense_spec_of(encoder) is None:
        able = [name for name in names() if may_be_dense(name)]
        raise ValueError(
            f"Encoder {encoder.spec.name!r} has no dense form: it gives one vector for a patch, none for the places in it. "
            f"Encoders that have one: {listing(able)}."
        )
    return cast("DenseEncoder", encoder)


def info() -> pd.DataFrame:
    """Return a table of the encoders: dimension, pixel size, patch, dense form, licence, access.

    Examples
    --------
    >>> import hisdiff as hd
    >>> bool(hd.encoders.info().loc["uni", "gated"])
    True
    """
    import pandas as pd

    rows = {
        name: {
            "dim": spec.dim,
            "mpp": spec.mpp,
            "patch_um": spec.patch_um,
            "dense": may_be_dense(name),
            "licence": spec.licence,
            "gated": spec.gated,
            "derivatives": spec.derivatives,
        }
        for name, spec in sorted(_SPECS.items())
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "encoder"
    return table
