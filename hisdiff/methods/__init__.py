"""Methods that turn sections into predictions, and the protocols for writing your own.

A method is one object (:class:`Method`) whose ``fit`` gives a fitted one (:class:`Fitted`). It sees sections as plain
arrays in micrometres (:class:`Section`, :class:`Locations`) and returns a :class:`Prediction`; nothing here knows
SpatialData. :class:`BaseMethod` and :class:`BaseFitted` are bases that check arguments and pass them on as one record
(:class:`FitRun`, :class:`PredictRun`). ``hd.tl.fit(method=)`` takes the object itself, or its name once it is registered (:func:`register`).
"""

from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._field import PatchField
from hisdiff._prediction._noise import BlockNoise
from hisdiff._prediction._point import PointField
from hisdiff._section import Locations, Prediction, Section
from hisdiff._training._calibration import Calibration, Dispersion
from hisdiff._training._config import Config
from hisdiff.methods._base import BaseFitted, BaseMethod, FitRun, PointFitted, PredictRun
from hisdiff.methods._protocols import Field, Fitted, Method
from hisdiff.methods._registry import get, register
from hisdiff.methods._registry import names as list

__all__ = [
    "BaseFitted",
    "BaseMethod",
    "BlockNoise",
    "Calibration",
    "Config",
    "Dispersion",
    "DrawAccumulator",
    "Field",
    "FitRun",
    "Fitted",
    "Locations",
    "Method",
    "PatchField",
    "PointField",
    "PointFitted",
    "PredictRun",
    "Prediction",
    "Section",
    "get",
    "list",
    "register",
]
