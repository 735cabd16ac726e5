"""How a phantom is scanned: grid, orientation, coil shading, resolution and noise of a 3D gradient-echo MR.

The scanner is simulated where it works, in k-space: the tissue is Fourier transformed, the outer part that
a shortened acquisition would skip is cut off (so edges blur and ring a little), complex Gaussian noise is
added and the magnitude is taken. That makes the noise Rician and correlated between voxels, as in
interpolated clinical scans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sample_data.anatomy import rotation
from sample_data.shapes import Field, Points, Vector

AXIAL, SAGITTAL, CORONAL = (0, 1, 2), (1, 2, 0), (0, 2, 1)
"""World axes (x, y, z) along the rows, columns and slices of a scan."""


@dataclass(frozen=True)
class Acquisition:
    """One scan's settings.

    Attributes:
        shape: Grid size in voxels, (X, Y, Z) in the file's own order.
        spacing_mm: Voxel size in mm along the file's axes, shape (3,).
        affine: (4, 4) voxel indices to RAS mm.
        orientation: Three letters, the direction each file axis points to, e.g. "LPS".
        oblique_degrees: Largest turn of the scan away from the body's axes; 0 for a straight scan.
        noise: Standard deviation of the complex noise, in units of the blood signal.
        resolution: Acquired share of k-space along each file axis, shape (3,), in (0, 1].
        gain: Stored value of the blood signal before coil shading.
        position_mm: Where the left atrium lies in the field of view, shape (3,), RAS mm.
    """

    shape: tuple[int, int, int]
    spacing_mm: Vector
    affine: NDArray[np.float64]
    orientation: str
    oblique_degrees: float
    noise: float
    resolution: Vector
    gain: float
    position_mm: Vector


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """Settings of one scan; the same generator state gives the same settings."""
    plane = (AXIAL, AXIAL, AXIAL, SAGITTAL, CORONAL)[int(rng.integers(5))]
    in_plane = rng.uniform(1.25, 1.7)
    spacing = np.round([in_plane, in_plane * rng.uniform(0.94, 1.06), rng.uniform(1.6, 2.0)], 3)
    view_mm = rng.uniform(104, 134, 2)
    shape = [int(np.clip(round(view_mm[axis] / spacing[axis]), 64, 90)) for axis in range(2)]
    shape.append(int(np.clip(round(rng.uniform(72, 98) / spacing[2]), 36, 56)))
    flips = np.where(rng.random(3) < 0.5, -1.0, 1.0)
    oblique = rng.normal(0, 9, 3) if rng.random() < 0.4 else np.zeros(3)
    direction = np.zeros((3, 3))
    for axis, world in enumerate(plane):
        direction[world, axis] = flips[axis]
    direction = rotation(oblique) @ direction
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    position = rng.normal(0, 6, 3)
    corner = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = np.round(rng.uniform(-40, 40, 3) - corner, 3)
    letters = (("L", "R"), ("P", "A"), ("I", "S"))
    names = "".join(letters[world][int(flips[axis] > 0)] for axis, world in enumerate(plane))
    return Acquisition(
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=spacing,
        affine=affine,
        orientation=names,
        oblique_degrees=round(float(np.abs(oblique).max()), 1),
        noise=float(rng.uniform(0.05, 0.13)),
        resolution=rng.uniform([0.75, 0.65, 0.7], [1.0, 0.95, 0.95]),
        gain=float(np.exp(rng.uniform(np.log(150), np.log(2500)))),
        position_mm=position,
    )


def anatomical_points(scan: Acquisition, tilt: NDArray[np.float64], rng: np.random.Generator) -> Points:
    """Where each voxel of the scan lies in the heart's own frame, in mm.

    Args:
        scan: The scan's settings.
        tilt: (3, 3) rotation of the heart in the body.
        rng: Draws the smooth warp, a few long waves of a few mm, that makes no two hearts ellipsoids.
    """
    middle = scan.affine[:3, :3] @ ((np.array(scan.shape) - 1) / 2)
    matrix = tilt @ scan.affine[:3, :3]
    start = tilt @ (-middle - scan.position_mm)
    grid = np.ogrid[: scan.shape[0], : scan.shape[1], : scan.shape[2]]
    matrix32, start32 = matrix.astype(np.float32), start.astype(np.float32)
    plain = [
        sum((matrix32[row, axis] * grid[axis].astype(np.float32) for axis in range(3)), start32[row])
        for row in range(3)
    ]
    warped = [axis.copy() for axis in plain]
    slack = 0.0
    for _ in range(6):
        wave = 2 * np.pi / rng.uniform(28, 80) * _random_direction(rng)
        push = rng.uniform(0.5, 2.0) * _random_direction(rng)
        phase = sum(
            (np.float32(wave[axis]) * plain[axis] for axis in range(3)), np.float32(rng.uniform(0, 2 * np.pi))
        )
        ripple = np.sin(phase)
        for axis in range(3):
            warped[axis] += np.float32(push[axis]) * ripple
        slack += float(np.abs(push).max())
    to_anatomy = np.eye(4)
    to_anatomy[:3, :3], to_anatomy[:3, 3] = matrix, start
    return Points(warped[0], warped[1], warped[2], np.linalg.inv(to_anatomy), slack)


def scan_tissue(tissue: Field, scan: Acquisition, rng: np.random.Generator) -> NDArray[np.int16]:
    """The magnitude image, int16 >= 0, shape (X, Y, Z), of a tissue signal (blood = 1) of that shape."""
    shaded = tissue * _coil_shading(scan.shape, rng)
    spectrum = np.fft.fftn(shaded.astype(np.float64))
    kept = np.ones(scan.shape)
    for axis, (size, share) in enumerate(zip(scan.shape, scan.resolution, strict=True)):
        frequency = np.abs(np.fft.fftfreq(size)) * 2
        # A raised-cosine edge: scanners filter the cut a little, or ringing would be far too strong.
        edge = 0.5 * (1 + np.cos(np.pi * np.clip((frequency - share + 0.22) / 0.22, 0, 1)))
        kept = kept * edge.reshape([-1 if other == axis else 1 for other in range(3)])
    noise = rng.standard_normal(scan.shape) + 1j * rng.standard_normal(scan.shape)
    signal = np.fft.ifftn((spectrum + np.fft.fftn(scan.noise * noise)) * kept)
    return np.asarray(np.clip(np.rint(np.abs(signal) * scan.gain), 0, 32767), np.int16)


def _coil_shading(shape: tuple[int, int, int], rng: np.random.Generator) -> Field:
    """Smooth multiplicative bias field around 1: two surface coils, bright near each."""
    ends = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    axes = np.meshgrid(*ends, indexing="ij", sparse=True)
    field = np.full(shape, np.float32(rng.uniform(0.5, 0.9)))
    for _ in range(2):
        center = _random_direction(rng) * rng.uniform(0.9, 1.5)
        width = np.float32(rng.uniform(0.9, 1.6))
        distance = sum((axis - np.float32(value)) ** 2 for axis, value in zip(axes, center, strict=True))
        field = field + np.float32(rng.uniform(0.3, 0.9)) * np.exp(-distance / (2 * width**2))
    return np.asarray(field / field.mean(), np.float32)


def _random_direction(rng: np.random.Generator) -> Vector:
    """A direction drawn evenly over the sphere, shape (3,)."""
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector), float)
