"""Fitted models: load, save, share.

In: the folder of a model, or the id of one on the hub. Out: a :class:`Model`.
"""

from hisdiff import encoders
from hisdiff.models._load import load
from hisdiff.models._model import Model
from hisdiff.models._reference import load_reference_checkpoint

__all__ = ["Model", "encoders", "load", "load_reference_checkpoint"]
