"""Where to write names beside points, so that they can be read."""

from __future__ import annotations

import numpy as np

RADII = (3.0, 9.0, 17.0, 28.0, 42.0)
"""Gaps between a point and its name that are tried, in points (1/72 inch)."""

ANGLES = 16
ROUNDS = 3
PAD = 1.5
MARK = 3.5
"""Half the size of a selected point's marker."""


def place(marks: np.ndarray, sizes: np.ndarray, others: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Offsets [k, 2] of the names' centres from their points, all in 1/72 inch.

    Each name takes the cheapest of a ring of places, with those of the others as they are; after ``ROUNDS`` rounds they
    have settled. In this order: not over another name, inside the axes, not over a selected point, few other points
    beneath, near.

    Args:
        marks: [m, 2] selected points; the first k carry names. sizes: [k, 2] width and height of the names.
        others: [n, 2] all other points. frame: x, y, width, height of the axes.
    """
    candidates = [_candidates(size) for size in sizes]
    fixed = [_fixed_cost(marks[i] + candidates[i], sizes[i], marks, others, frame) for i in range(len(sizes))]
    chosen = np.array([offsets[int(np.argmin(cost))] for offsets, cost in zip(candidates, fixed, strict=True)])
    for _ in range(ROUNDS):
        for i, offsets in enumerate(candidates):
            cost = fixed[i].copy()
            for j in range(len(sizes)):
                if j != i:
                    cost += 1000 * _overlap(marks[i] + offsets, sizes[i], marks[j] + chosen[j], sizes[j])
                    cost += 60 * _crossed(marks[i], offsets, marks[j] + chosen[j], sizes[j])
            chosen[i] = offsets[int(np.argmin(cost))]
    return chosen


def _candidates(size: np.ndarray) -> np.ndarray:
    """Centres [c, 2] of a name around a point at the origin: every gap in every direction."""
    angles = np.arange(ANGLES) * 2 * np.pi / ANGLES
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    half = size / 2 + MARK
    # From the origin to the border of the box around the marker and half the name, along each direction.
    with np.errstate(divide="ignore"):
        border = np.min(half / np.abs(directions).clip(1e-9), axis=1)
    return np.concatenate([directions * (border + gap)[:, None] for gap in RADII])


def _fixed_cost(
    centres: np.ndarray, size: np.ndarray, marks: np.ndarray, others: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """Cost [c] of places that does not depend on where the other names are."""
    half = size / 2
    low, high = centres - half, centres + half
    outside = np.maximum(frame[:2] - low, 0) + np.maximum(high - (frame[:2] + frame[2:]), 0)
    cost = np.repeat(np.array(RADII), ANGLES) * 1.2 + 40 * outside.sum(axis=1)
    cost += 120 * _inside(centres, half + MARK, marks)
    found: np.ndarray = cost + 25 * np.sqrt(_inside(centres, half + PAD, others))
    return found


def _inside(centres: np.ndarray, half: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How many of the points lie in a box around each centre [c]."""
    if not len(points):
        return np.zeros(len(centres))
    near = (np.abs(points[None] - centres[:, None]) < half).all(axis=2)
    found: np.ndarray = near.sum(axis=1).astype(float)
    return found


def _overlap(centres: np.ndarray, size: np.ndarray, other: np.ndarray, other_size: np.ndarray) -> np.ndarray:
    """Share [c] of a name's area that another name covers."""
    reach = (size + other_size) / 2 + PAD
    shared = np.minimum(np.maximum(reach - np.abs(centres - other), 0), np.minimum(size, other_size))
    found: np.ndarray = shared.prod(axis=1) / size.prod()
    return found


def _crossed(mark: np.ndarray, offsets: np.ndarray, other: np.ndarray, other_size: np.ndarray) -> np.ndarray:
    """Whether [c] the line from a point to its name runs through another name."""
    steps = np.linspace(0.1, 0.9, 7)
    along = mark + steps[None, :, None] * offsets[:, None, :]
    found: np.ndarray = (np.abs(along - other) < other_size / 2).all(axis=2).any(axis=1).astype(float)
    return found
