"""Random patterns on the wall of a simulated organ: noise, blood vessels and speckle.

All patterns are periodic in both directions, so that they close around a tube without a seam.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], scale: tuple[float, float]
) -> Grid:
    """Gaussian noise of zero mean and unit variance, blurred by `scale` cells; periodic."""
    return normalised(blur(rng.standard_normal(shape, dtype=np.float32), scale))


def blur(grid: Grid, scale: tuple[float, float]) -> Grid:
    """Periodic Gaussian blur by `scale` = (rows, columns) cells, by Fourier transform."""
    rows = np.fft.fftfreq(grid.shape[0])[:, None] * scale[0]
    columns = np.fft.rfftfreq(grid.shape[1])[None, :] * scale[1]
    response = np.exp(-2 * np.pi**2 * (rows**2 + columns**2))
    return np.fft.irfft2(np.fft.rfft2(grid) * response, s=grid.shape).astype(np.float32)


def normalised(grid: Grid) -> Grid:
    """The grid with zero mean and unit variance."""
    return (grid - grid.mean()) / (grid.std() + 1e-12)


def vessel_tree(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell: tuple[float, float],
    trunks: int,
    length: float,
) -> Grid:
    """Density in [0, 1] of a branching net of vessels.

    Walkers wander over the wall and leave a trace; thinner walkers start from the traces of
    thicker ones, at an angle, as vessels branch.

    Args:
        rng: source of the walk.
        shape: rows and columns of the result.
        cell: size of a cell, millimetres.
        trunks: number of the thickest vessels.
        length: length of those, millimetres.
    """
    extent = np.array([shape[0] * cell[0], shape[1] * cell[1]])
    starts = rng.uniform(size=(trunks, 2)) * extent
    angles = rng.uniform(0, 2 * np.pi, trunks)
    density = np.zeros(shape, np.float32)
    for level, (width, strength) in enumerate(((0.42, 1.0), (0.27, 0.8), (0.18, 0.6))):
        paths, headings = _walk(rng, starts, angles, length * 0.55**level)
        taper = np.linspace(1.0, 0.35, len(paths))[:, None] * np.ones(paths.shape[1])
        trace = blur(_splat(paths, taper, shape, cell), (width / cell[0], width / cell[1]))
        # A straight trace has this value at its centre, whatever the cells and the step.
        centre = STEP**-1 * cell[0] * cell[1] / (np.sqrt(2 * np.pi) * width)
        density = np.maximum(density, strength * (1 - np.exp(-1.6 * trace / centre)))
        branch = rng.integers(0, paths.shape[0], 4 * paths.shape[1])
        parent = np.repeat(np.arange(paths.shape[1]), 4)
        starts = paths[branch, parent]
        turn = rng.uniform(0.4, 1.2, len(branch)) * rng.choice([-1, 1], len(branch))
        angles = headings[branch, parent] + turn
    return density.astype(np.float32)


STEP = 0.15  # length of one step of a vessel's walk, millimetres


def _walk(
    rng: np.random.Generator,
    starts: NDArray[np.float64],
    angles: NDArray[np.float64],
    length: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (S, N, 2) in millimetres and headings (S, N) of N smooth random walks."""
    steps = max(2, int(length / STEP))
    bend = rng.standard_normal((steps, len(starts)))
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 5.0) ** 2)
    bend = np.apply_along_axis(np.convolve, 0, bend, kernel / kernel.sum(), "same")
    headings = angles + np.cumsum(0.16 * bend, axis=0)
    moves = STEP * np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    return starts + np.cumsum(moves, axis=0), headings


def _splat(
    paths: NDArray[np.float64],
    weights: NDArray[np.float64],
    shape: tuple[int, int],
    cell: tuple[float, float],
) -> Grid:
    """Sum of the weights of the path points, spread bilinearly over the cells they lie in."""
    place = paths.reshape(-1, 2) / np.asarray(cell)
    corner = np.floor(place).astype(np.int64)
    part = place - corner
    grid = np.zeros(shape[0] * shape[1])
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            row, column = (corner[:, 0] + down) % shape[0], (corner[:, 1] + right) % shape[1]
            grid += np.bincount(
                row * shape[1] + column, share * weights.reshape(-1), minlength=grid.size
            )
    return grid.reshape(shape).astype(np.float32)


def specks(
    rng: np.random.Generator, shape: tuple[int, int], scale: tuple[float, float], share: float
) -> Grid:
    """Soft-edged spots in [0, 1] that cover about `share` of the grid; periodic."""
    noise = smooth_noise(rng, shape, scale)
    threshold = float(np.quantile(noise, 1 - share))
    return np.clip((noise - threshold) / 0.35, 0, 1).astype(np.float32)
