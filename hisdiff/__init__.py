"""Spatial gene expression from H&E, for the scverse ecosystem.

>>> import hisdiff as hd
>>> sdata = hd.datasets.toy(size_um=600)
>>> model = hd.tl.fit(sdata)  # doctest: +SKIP
>>> hd.tl.predict(sdata, model)  # doctest: +SKIP

Namespaces: ``io`` (readers), ``datasets``, ``pp`` (genes, tissue, embedding), ``tl`` (fit, predict, evaluate),
``pl`` (plots), ``models`` (saved models), ``encoders``, ``methods`` (and how to add your own). Importing hisdiff loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hisdiff._keys import VERSION

if TYPE_CHECKING:
    from hisdiff import datasets, encoders, io, methods, models, pl, pp, tl
    from hisdiff._settings import settings

__all__ = ["datasets", "encoders", "io", "methods", "models", "pl", "pp", "settings", "tl"]

__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name == "settings":
        from hisdiff._settings import settings

        return settings
    if name in __all__:
        return import_module(f"hisdiff.{name}")
    raise AttributeError(f"module 'hisdiff' has no attribute {name!r}; it has {__all__}.")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
