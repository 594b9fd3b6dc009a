"""Import timm, also beside a torchvision whose compiled operators do not load."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

# Operator schemas live as long as the library object that defined them.
_libraries: list[Any] = []


def import_timm() -> ModuleType:
    """Return the module ``timm``.

    A torchvision built for CUDA cannot be imported beside a torch built for the CPU: its Python part registers shapes
    for operators that its compiled part failed to define. Encoders need none of these operators, so that declaring
    their schemas is enough. Nothing is touched where the import succeeds.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as err:
        if "torchvision::nms" not in str(err):
            raise
    import torch

    for name in list(sys.modules):  # half-imported modules would be taken for whole ones
        if name.partition(".")[0] in {"timm", "torchvision"}:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
    return importlib.import_module("timm")
