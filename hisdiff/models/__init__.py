"""Fitted models: load, save, share.

In: the folder of a model, or the id of one on the hub. Out: a :class:`Model`.
"""

from hisdiff import encoders
from hisdiff.methods._model import Model
from hisdiff.models._load import load

__all__ = ["Model", "encoders", "load"]
