"""Write the public API on one page: ``python docs/llms.py`` makes ``docs/llms.txt``."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

NAMESPACES = ("io", "datasets", "pp", "tl", "pl", "models", "encoders", "methods")
PAGE = Path(__file__).with_name("llms.txt")
HEAD = """# hisdiff

> Spatial gene expression from H&E, for the scverse ecosystem: learns p(expression | morphology) from sections with an H&E image and
> spatial transcriptomics spots, and predicts sections that have only an image, at spots or finer, with an uncertainty.

`import hisdiff as hd`. Objects are `spatialdata.SpatialData`; results are written into them under names that start with `hisdiff`. The usual order:
`hd.io.*` or `hd.datasets.toy()`, `hd.pp.select_genes(train)`, `hd.pp.embed(sections)`, `hd.tl.fit(train)`, `hd.tl.predict(test, model)`, `hd.tl.evaluate(test)`,
`hd.pl.gene_map(test, genes)`. `fit` and `predict` make a missing selection or embedding with defaults. Layers `hisdiff` (mean), `hisdiff_std`, `hisdiff_draw0` (one draw) are
log2(1 + count) at spots; `predict(resolution_um=16)` makes a table `hisdiff_16um` of expected counts. Use draws, not the mean, for relations between genes.
Every function checks its arguments before it starts, and its errors name what is available.
"""


def summary_of(thing: Any) -> str:
    """Return the first sentence of a docstring."""
    first = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?\.?([^`]*)`", r"`\1`", first)


def signature_of(function: Any) -> str:
    """Return a signature with its annotations, as it is written."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "()"
    plain = [
        parameter.replace(annotation=_as_written(parameter.annotation)) for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=_as_written(signature.return_annotation)))


class _Written(str):
    """An annotation that is printed without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def _as_written(annotation: Any) -> Any:
    return _Written(annotation) if isinstance(annotation, str) else annotation


def entries(namespace: str) -> list[str]:
    """Return a line for each public name of a namespace, and for the methods of its classes."""
    module = importlib.import_module(f"hisdiff.{namespace}")
    lines = []
    for name in sorted(module.__all__):
        thing, full = getattr(module, name), f"hd.{namespace}.{name}"
        if inspect.isclass(thing):
            lines.append(f"- `class {full}`: {summary_of(thing)}")
            for part, value in sorted(vars(thing).items()):
                function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
                if not part.startswith("_") and inspect.isfunction(function):
                    lines.append(f"  - `.{part}{signature_of(function)}`: {summary_of(function)}")
        elif callable(thing):
            lines.append(f"- `{full}{signature_of(thing)}`: {summary_of(thing)}")
    return lines


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for namespace in NAMESPACES:
        module = importlib.import_module(f"hisdiff.{namespace}")
        parts += [f"\n## hd.{namespace}\n\n{summary_of(module)}\n\n", "\n".join(entries(namespace)), "\n"]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
