"""Tiles of a fine prediction: what neighbors share is computed first, then each tile, on threads or workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from hisdiff._cores import give_back_memory
from hisdiff._log import progress
from hisdiff._workers import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hisdiff._section import Locations

T = TypeVar("T")
R = TypeVar("R")

# Tiles whose shared values are in memory at a time.
_BAND = 64


def each_tile(
    field: Any,
    tiles: Sequence[T],
    bins_of: Callable[[T], Locations],
    work: Callable[[int], R],
    todo: Sequence[int],
    what: str,
    *,
    draws: bool,
    forget: bool = True,
    needs_bytes: int = 0,
    show: bool | None = None,
) -> Iterator[tuple[int, R]]:
    """Yield positions in ``todo`` and what ``work`` makes of the tile there, as they are done.

    A field whose bins are interpolated from ``nodes`` has them computed in groups before, and lets tiles only look them up: no node is
    computed twice, whoever does the tiles, and a tile is a pure function of the plan.

    Parameters
    ----------
    field
        Predicts; see ``hisdiff.methods.Field``.
    tiles, bins_of
        All tiles of the plan, and the bins of one.
    work
        What is done with the number of a tile.
    todo
        Numbers of the tiles that are not finished yet.
    what
        What is done, for messages.
    draws
        Whether ``work`` makes draws.
    forget
        Whether what no further tile needs may be forgotten.
    needs_bytes
        Memory that a tile needs.
    show
        Whether to show a bar; None for the package's setting.
    """
    how = {"threads": bool(getattr(field, "reentrant", False))}
    nodes = getattr(field, "nodes", None)
    if nodes is None:
        yield from spread(work, todo, what, needs_bytes=needs_bytes, **how)
        return
    wanted = [field.nodes_around(bins_of(tile), draws=draws) for tile in tiles]
    groups = nodes.groups(wanted)
    for start in range(0, len(tiles), _BAND):
        band = range(start, min(start + _BAND, len(tiles)))
        own = [position for position, k in enumerate(todo) if k in band]
        if not own:
            continue
        if forget:
            nodes.keep(wanted[start:])
        new = sorted(nodes.lacking_groups(groups, wanted[start : band.stop]), key=len, reverse=True)
        with progress(
            desc="embedding the tissue between the spots", total=sum(map(len, new)), enabled=show, unit="places"
        ) as bar:
            for number, values in spread(field.compute, new, "the tissue between the spots", **how):
                nodes.learn(new[number], values)
                bar.update(len(new[number]))
        give_back_memory()  # small values that stay lie between large ones that do not
        for number, made in spread(work, [todo[position] for position in own], what, needs_bytes=needs_bytes, **how):
            yield own[number], made
