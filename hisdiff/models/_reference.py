"""Models that the published HisDiff code trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._arguments import checked
from hisdiff.models._cohort import Cohort
from hisdiff.models._model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@checked
def load_reference_checkpoint(path: str | Path, genes: Sequence[str], *, heads: int | None = None) -> Model:
    """Load a checkpoint that the published training script saved, to predict with it.

    The network is the published one and gives the same numbers. Targets are raw log2(1 + count), embeddings are taken as
    they are, and draws take 1000 ancestral steps unless ``hd.tl.predict(..., n_steps=)`` asks for fewer.

    Parameters
    ----------
    path
        A file such as ``0002000.pt``. Tensors are read from it, and nothing else is unpickled.
    genes
        The panel it was trained on, in its order.
    heads
        Number of attention heads over genes, which cannot be inferred from the weights. None for that of a ``config.json``
        beside the file, else the published 12.

    Returns
    -------
    A model with unknown cohort: the file records neither its sections nor the encoder. Embed sections with
    the encoder of its training (UNI in the publication) before :func:`hisdiff.tl.predict`. ``push_to_hub`` refuses
    the model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, holds pickled objects, is of another network, or of another number of genes.

    Examples
    --------
    >>> import hisdiff as hd
    >>> model = hd.models.load_reference_checkpoint("0002000.pt", genes)  # doctest: +SKIP
    >>> hd.pp.embed(sdata, "uni")  # doctest: +SKIP
    >>> hd.tl.predict(sdata, model)  # doctest: +SKIP
    """
    # torch is loaded when a checkpoint is, not when hisdiff.models is.
    from hisdiff.methods.hisdiff import FittedHisDiff, GeneConfig
    from hisdiff.methods.hisdiff.gene._model import published_model
    from hisdiff.methods.hisdiff.gene._reference import load_reference_checkpoint as read

    reference = read(path, genes, heads=heads)
    sizes = reference.sizes
    config = replace(GeneConfig.preset("paper"), width=sizes.hidden, depth=sizes.depth, heads=sizes.heads)
    fitted = FittedHisDiff(np.asarray(genes, dtype=str), config, published_model(config, reference))
    return Model("hisdiff", fitted, config.to_dict(), _unknown_cohort())


def _unknown_cohort() -> Cohort:
    nan = float("nan")
    return Cohort(
        sections=(),
        features=None,
        licence="unknown",
        derivatives=None,
        mpp=(),
        pitch_um=nan,
        radius_um=nan,
        library_size=nan,
        spots=np.empty(0, dtype=np.uint64),
    )
