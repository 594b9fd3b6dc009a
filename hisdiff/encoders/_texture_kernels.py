"""The arithmetic of the texture encoder, compiled: stain densities, reduction by two, filters, and sums of what they respond.

A row of an image goes through all filters and into the sums while it is in the cache. Nothing here holds the interpreter's lock, so that
threads do not wait for each other. The first call after an installation takes some seconds.

Loops run over slices from zero on: numba, which allows negative indices, makes vector instructions of no other ones.
"""

from __future__ import annotations

import math

import numpy as np

from hisdiff._compiled import compiled
from hisdiff.encoders._texture_forms import SCALARS, STAINS

MOMENTS = 2 * SCALARS + 3 * STAINS
_FIRST = 2 * STAINS
_ROWS = _FIRST + SCALARS + 1
"""Of a row of responses, the last of them constant one."""
_SIDE = 4
"""Of the blocks in which products of responses are summed: as many sums as there are registers for."""
_CHUNK = 512
"""Columns that are summed into blocks at a time, so that all of their sums stay in the cache."""
_f32 = np.float32
# Sums may be taken in another order, as vector instructions do; each is short and is added to a float64 or a block.
_compiled = compiled(fastmath={"reassoc", "contract", "nsz"})


@_compiled
def unmix(image, density, weights):
    """Return the stain densities, float32 ``(C, y, x)``, of an image, uint8 ``(y, x, 3)``.

    Parameters
    ----------
    density
        Optical density of each grey level, float32 ``(256,)``.
    weights
        Of the three colours in each stain, float32 ``(C, 3)``.
    """
    height, width, _ = image.shape
    out = np.empty((STAINS, height, width), dtype=np.float32)
    row = np.empty((3, width), dtype=np.float32)
    for y in range(height):
        for x in range(width):
            for color in range(3):
                row[color, x] = density[image[y, x, color]]
        for c in range(STAINS):
            for x in range(width):
                out[c, y, x] = weights[c, 0] * row[0, x] + weights[c, 1] * row[1, x] + weights[c, 2] * row[2, x]
    return out


@_compiled
def halve(level):
    """Smooth ``(C, y, x)`` by the binomial filter of length 5 and take every other pixel; borders are repeated."""
    n, height, width = level.shape
    out = np.empty((n, (height + 1) // 2, (width + 1) // 2), dtype=np.float32)
    row = np.empty(width + 4, dtype=np.float32)
    six, four, norm = _f32(6), _f32(4), _f32(1 / 256)
    for c in range(n):
        for y in range(out.shape[1]):
            first, second, middle = level[c, max(2 * y - 2, 0)], level[c, max(2 * y - 1, 0)], level[c, 2 * y]
            fourth, last = level[c, min(2 * y + 1, height - 1)], level[c, min(2 * y + 2, height - 1)]
            for x in range(width):
                row[x + 2] = six * middle[x] + four * (second[x] + fourth[x]) + (first[x] + last[x])
            row[0] = row[1] = row[2]
            row[width + 2] = row[width + 3] = row[width + 1]
            for x in range(out.shape[2]):
                near = row[2 * x + 1] + row[2 * x + 3]
                out[c, y, x] = (six * row[2 * x + 2] + four * near + (row[2 * x] + row[2 * x + 4])) * norm
    return out


@_compiled
def window_sums(level, sides):
    """Return sums of products of responses over centred square windows.

    Responses, by kind and each for every stain: two derivatives, the density itself, the length of the gradient, the
    Laplacian's positive and negative part (bright and dark blobs), and the difference of the Hessian's eigenvalues (lines); all but
    the density after smoothing by the binomial filter of length 3. Filters see a border repeated.

    Parameters
    ----------
    level
        Stain densities, float32 ``(C, y, x)``.
    sides
        Of the windows in pixels, smallest first, ``(n,)``.

    Returns
    -------
    float64 ``(n, S + 1, S + 1)`` of the scalar responses and one, and ``(n, 3, C)``: squares of the two derivatives of each stain,
    and their product.
    """
    n, largest = len(sides), sides[-1]
    top, left = (level.shape[1] - largest) // 2, (level.shape[2] - largest) // 2
    scalars, tensor = np.zeros((n, SCALARS + 1, SCALARS + 1)), np.zeros((n, 3, STAINS))
    smooth, response = _first_rows(level, top, left, largest)
    for y in range(largest):
        _respond(level, top + y, left, smooth, response)
        # What smaller windows have of the row is theirs; larger ones get what is on both sides of it.
        inner = outer = -1
        for k in range(n):
            start = (largest - sides[k]) // 2
            stop = start + sides[k]
            if start <= y < stop:
                if inner < 0:
                    inner = outer = stop
                for first, last in ((start, inner), (outer, stop)):
                    if first < last:
                        _add_products(response, first, last, scalars[k], tensor[k])
                inner, outer = start, stop
    for k in range(1, n):
        scalars[k] += scalars[k - 1]
        tensor[k] += tensor[k - 1]
    for i in range(SCALARS + 1):
        for j in range(i):
            scalars[:, i, j] = scalars[:, j, i]
    return scalars, tensor


@_compiled
def block_means(level, side):
    """Return mean moments of responses over blocks of ``side`` pixels, float32 ``(y // side, x // side, M)``.

    In this order: the means of the scalar responses, their mean squares, and of each stain the mean squares of the two
    derivatives and their mean product. See :func:`window_sums`; the side is a power of two.
    """
    _, height, width = level.shape
    out = np.empty((height // side, width // side, MOMENTS), dtype=np.float32)
    norm = _f32(1 / side**2)
    chunk = max(_CHUNK, side)
    for left in range(0, out.shape[1] * side, chunk):
        columns = min(chunk, out.shape[1] * side - left)
        smooth, response = _first_rows(level, 0, left, columns)
        sums = np.empty((MOMENTS, columns), dtype=np.float32)
        for i in range(len(out)):
            sums[:] = 0
            for y in range(i * side, (i + 1) * side):
                _respond(level, y, left, smooth, response)
                _add_moments(response, sums)
            into = out[i, left // side :]
            for m in range(MOMENTS):
                of = sums[m]
                for j in range(columns // side):
                    total = _f32(0)
                    for x in range(side):
                        total += of[j * side + x]
                    into[j, m] = total * norm
    return out


@_compiled
def blended(blocks, first_row, of_rows, first_column, of_columns):
    """Return weighted sums over runs of blocks, ``(by, bx, M)``, that start at given rows and columns: float64 ``(ny, nx, M)``.

    ``of_rows`` and ``of_columns``, ``(ny, k)`` and ``(nx, k)``, are the weights of a run.
    """
    _, width, n = blocks.shape
    out = np.zeros((len(first_row), len(first_column), n))
    row = np.empty((width, n))
    for i in range(len(first_row)):
        row[:] = 0
        for k in range(of_rows.shape[1]):
            _add(blocks[first_row[i] + k].reshape(-1), of_rows[i, k], row.reshape(-1))
        for j in range(len(first_column)):
            for k in range(of_columns.shape[1]):
                _add(row[first_column[j] + k], of_columns[j, k], out[i, j])
    return out


@_compiled
def _add(values, weight, into):
    for x in range(len(into)):
        into[x] += weight * values[x]


@_compiled
def _first_rows(level, top, left, width):
    """Return the smoothed rows above and at ``top``, in a ring of three for each stain, and room for a row of responses."""
    smooth = np.empty((STAINS, 3, width + 2), dtype=np.float32)
    for c in range(STAINS):
        for y in range(top - 1, top + 1):
            _smooth(level[c], y, left, smooth[c, (y + 3) % 3])
    response = np.empty((_ROWS, width), dtype=np.float32)
    response[-1] = 1
    return smooth, response


@_compiled
def _smooth(density, y, left, out):
    """Smooth row ``y`` by the binomial filter of length 3, from one pixel left of ``left`` on."""
    height, width = density.shape
    two, norm = _f32(2), _f32(1 / 16)
    # The columns that there are; those beyond an edge are its own.
    first, last = max(left - 2, 0), min(left + len(out), width)
    above = density[min(max(y - 1, 0), height - 1), first:last]
    here = density[min(max(y, 0), height - 1), first:last]
    below = density[min(max(y + 1, 0), height - 1), first:last]
    sums = np.empty(len(out) + 2, dtype=np.float32)
    start = first - (left - 2)
    inside = sums[start : start + last - first]
    for x in range(last - first):
        inside[x] = above[x] + below[x] + two * here[x]
    sums[:start] = inside[0]
    sums[start + last - first :] = inside[-1]
    for x in range(len(out)):
        out[x] = (sums[x] + sums[x + 2] + two * sums[x + 1]) * norm


@_compiled
def _respond(level, y, left, smooth, response):
    """Write the responses of row ``y`` from column ``left`` on, after those of the row above."""
    two, half, zero = _f32(2), _f32(0.5), _f32(0)
    for c in range(STAINS):
        _smooth(level[c], y + 1, left, smooth[c, (y + 1) % 3])
        up, here, down = smooth[c, (y + 2) % 3], smooth[c, y % 3], smooth[c, (y + 1) % 3]
        density = level[c, y, left:]
        for x in range(response.shape[1]):
            dx = half * (here[x + 2] - here[x])
            dy = half * (down[x + 1] - up[x + 1])
            response[c, x] = dx
            response[STAINS + c, x] = dy
            response[2 * STAINS + c, x] = density[x]
            response[3 * STAINS + c, x] = math.sqrt(dx * dx + dy * dy)
        for x in range(response.shape[1]):
            center = two * here[x + 1]
            xx, yy = here[x] + here[x + 2] - center, up[x + 1] + down[x + 1] - center
            xy = half * (down[x + 2] + up[x] - up[x + 2] - down[x])
            laplacian, difference = xx + yy, xx - yy
            bright = max(laplacian, zero)
            response[4 * STAINS + c, x] = bright
            response[5 * STAINS + c, x] = bright - laplacian
            response[6 * STAINS + c, x] = math.sqrt(difference * difference + xy * xy)


@_compiled
def _add_products(response, start, stop, scalars, tensor):
    """Add the products of the responses of a row; of the symmetric matrix of scalars the upper half."""
    for i in range(0, SCALARS + 1, _SIDE):
        a0, a1 = response[_FIRST + i, start:stop], response[_FIRST + i + 1, start:stop]
        a2, a3 = response[_FIRST + i + 2, start:stop], response[_FIRST + i + 3, start:stop]
        for j in range(i, SCALARS + 1, _SIDE):
            b0, b1 = response[_FIRST + j, start:stop], response[_FIRST + j + 1, start:stop]
            b2, b3 = response[_FIRST + j + 2, start:stop], response[_FIRST + j + 3, start:stop]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = _f32(0)
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = _f32(0)
            for x in range(stop - start):
                s00, s01, s02, s03 = s00 + a0[x] * b0[x], s01 + a0[x] * b1[x], s02 + a0[x] * b2[x], s03 + a0[x] * b3[x]
                s10, s11, s12, s13 = s10 + a1[x] * b0[x], s11 + a1[x] * b1[x], s12 + a1[x] * b2[x], s13 + a1[x] * b3[x]
                s20, s21, s22, s23 = s20 + a2[x] * b0[x], s21 + a2[x] * b1[x], s22 + a2[x] * b2[x], s23 + a2[x] * b3[x]
                s30, s31, s32, s33 = s30 + a3[x] * b0[x], s31 + a3[x] * b1[x], s32 + a3[x] * b2[x], s33 + a3[x] * b3[x]
            sums = ((s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33))
            for k in range(_SIDE):
                for m in range(_SIDE):
                    scalars[i + k, j + m] += sums[k][m]
    for c in range(STAINS):
        dx, dy = response[c, start:stop], response[STAINS + c, start:stop]
        xx = yy = xy = _f32(0)
        for x in range(stop - start):
            xx, yy, xy = xx + dx[x] * dx[x], yy + dy[x] * dy[x], xy + dx[x] * dy[x]
        tensor[0, c] += xx
        tensor[1, c] += yy
        tensor[2, c] += xy


@_compiled
def _add_moments(response, sums):
    """Add the moments of the responses of a row, pixel by pixel; see :func:`block_means`."""
    for i in range(SCALARS):
        of, mean, square = response[_FIRST + i], sums[i], sums[SCALARS + i]
        for x in range(response.shape[1]):
            mean[x] += of[x]
            square[x] += of[x] * of[x]
    for c in range(STAINS):
        dx, dy = response[c], response[STAINS + c]
        xx, yy, xy = sums[2 * SCALARS + c], sums[2 * SCALARS + STAINS + c], sums[2 * SCALARS + 2 * STAINS + c]
        for x in range(response.shape[1]):
            xx[x] += dx[x] * dx[x]
            yy[x] += dy[x] * dy[x]
            xy[x] += dx[x] * dy[x]
