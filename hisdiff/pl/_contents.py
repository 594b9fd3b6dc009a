"""Contents of an object as lines of text: images, shapes, tables with their results, and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff import _keys
from hisdiff._sdata._annotation import regions_of
from hisdiff._sdata._locate import Elements, image_mpp
from hisdiff._sdata._provenance import in_sample_of, records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from spatialdata import SpatialData

Line = tuple[str, str]
"""What there is, and what is known of it."""
INDENT = "    "


def contents(sdata: SpatialData) -> list[Line]:
    """Return what there is in an object, each with a few words on it; what belongs to a table is indented."""
    lines = [*_images(sdata), *_shapes(sdata)]
    for key, table in sdata.tables.items():
        lines += _table(key, table)
    model = sdata.attrs.get(_keys.STEM, {}).get("model")
    lines.append(("model", model["id"] if model else "none fitted on this object"))
    return lines


def _images(sdata: SpatialData) -> Iterator[Line]:
    elements = Elements(sdata)
    for key in sdata.images:
        image = elements.finest(key)
        known = _keys.UM in elements.frame(key).systems
        scale = f"{image_mpp(elements, key):.3g} µm per pixel" if known else "scale unknown"
        channels = "" if image.sizes["c"] <= 4 else f", {image.sizes['c']:,} channels"
        yield f"image {key}", f"{image.sizes['x']:,} x {image.sizes['y']:,} px, {scale}{channels}"


def _shapes(sdata: SpatialData) -> Iterator[Line]:
    for key, shapes in sdata.shapes.items():
        kind = "circle" if "radius" in shapes.columns else "outline"
        yield f"shapes {key}", _several(len(shapes), kind)


def _table(key: str, table: AnnData) -> Iterator[Line]:
    regions = regions_of(table)
    on = f" on {', '.join(regions)}" if regions else ""
    yield f"table {key}", f"{_several(table.n_obs, 'location')} x {_several(table.n_vars, 'gene')}{on}"
    if _keys.SELECTED in table.var:
        yield f"{INDENT}genes", f"{int(table.var[_keys.SELECTED].sum()):,} selected to be modelled"
    embedding = records(table, _keys.EMBEDDING_RECORD)
    if embedding:
        yield (
            f"{INDENT}embedding",
            f"{embedding['encoder']}, {embedding['dim']:,} numbers of a patch of {embedding['patch_um']:.0f} µm, "
            f"precision {embedding.get('precision', 'unknown')}",
        )
    for name, record in records(table, _keys.PREDICTIONS).items():
        seen = ", fitted on this section" if in_sample_of(record) else ""
        yield (
            f"{INDENT}prediction {name}",
            f"{_several(record['n_genes'], 'gene')}, mean of {_several(record['n_draws'], 'draw')}, {record['units']}; "
            f"model {record['model']}{seen}",
        )
    for name, record in records(table, _keys.COEXPRESSION).items():
        modules = table.var[_keys.module(name)].dropna().nunique() if _keys.module(name) in table.var else 0
        yield f"{INDENT}coexpression {name}", f"{_several(len(record['genes']), 'gene')}, {_several(modules, 'module')}"
    for name in table.uns:
        if _keys.pathways(name) in table.obsm:
            sets = table.obsm[_keys.pathways(name)].shape[1]
            yield f"{INDENT}pathways {name}", f"scores of {_several(sets, 'gene set')}"


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
