"""One phantom: the anatomy painted on a scan's grid, its MR image and its reference label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sample_data.acquisition import Acquisition, anatomical_points, draw_acquisition, scan_tissue
from sample_data.anatomy import Anatomy, draw_anatomy, rotation
from sample_data.contrast import Contrast, draw_contrast
from sample_data.shapes import Field, Points, carve, ellipsoid, half_space, smooth_union, tube


@dataclass(frozen=True)
class Phantom:
    """A scan with its truth.

    Attributes:
        image: Magnitude image, int16 >= 0, shape (X, Y, Z).
        label: Left atrial cavity with appendage and proximal veins, uint8 0 or 1, shape (X, Y, Z).
        affine: (4, 4) voxel indices to RAS mm.
        parameters: What was drawn, as JSON values.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Atrium:
    """Signed distances in mm of the left atrium's blood: `labeled` what an expert draws, `blood` all."""

    labeled: Field
    blood: Field
    cavity: Field
    appendage: Field
    mitral: Field


def make_phantom(seed: int, index: int) -> Phantom:
    """The phantom number `index` of the cohort `seed`; each is drawn from its own generator."""
    rng = np.random.default_rng([seed, index])
    anatomy = draw_anatomy(rng)
    scan = draw_acquisition(rng)
    contrast = draw_contrast(rng, index)
    points = anatomical_points(scan, rotation(rng.normal(0, [7, 7, 11])), rng)
    atrium = _left_atrium(points, anatomy)
    canvas = Canvas(np.full(scan.shape, contrast.fat, np.float32), float(scan.spacing_mm.mean()))
    tissue = _paint(canvas, points, anatomy, atrium, contrast, rng)
    image = scan_tissue(tissue, scan, rng)
    label = (atrium.labeled < 0).astype(np.uint8)
    return Phantom(image, label, scan.affine, _parameters(anatomy, scan, contrast, label))


def _left_atrium(points: Points, anatomy: Anatomy) -> Atrium:
    """The left atrium cut at the mitral plane and at the ostia, and the same blood uncut."""
    body = ellipsoid(points, anatomy.atrium.center, anatomy.atrium.radii, anatomy.atrium.axes)
    lobe = ellipsoid(points, anatomy.lobe.center, anatomy.lobe.radii, anatomy.lobe.axes)
    cavity = smooth_union(body, lobe, 6.0)
    appendage = tube(points, anatomy.appendage, 2.0)
    mitral = half_space(points, anatomy.mitral_center, anatomy.mitral_normal)
    # Only the cavity ends at the valve: the appendage and the veins may reach beyond that plane elsewhere.
    atrium = smooth_union(np.maximum(cavity, mitral), appendage, 3.0)
    labeled, blood = atrium, atrium
    for vein in anatomy.veins:
        vessel = tube(points, vein.tube)
        blood = smooth_union(blood, vessel, 3.0)
        labeled = smooth_union(labeled, np.maximum(vessel, half_space(points, vein.cut, vein.direction)), 3.0)
        for branch in vein.branches:
            blood = np.minimum(blood, tube(points, branch))
    return Atrium(labeled, blood, cavity, appendage, mitral)


def _paint(
    canvas: Canvas,
    points: Points,
    anatomy: Anatomy,
    atrium: Atrium,
    contrast: Contrast,
    rng: np.random.Generator,
) -> Field:
    """Tissue signal (blood about 1), float32, shape (X, Y, Z), painted from the back to the front."""
    canvas.tissue *= texture(points.shape, rng, 2.2, contrast.grain)
    _paint_chest(canvas, points, anatomy, contrast, rng)
    walls, bloods = _neighbors(points, anatomy, atrium, contrast, rng)
    for wall, signal in walls:
        canvas.cover(wall, signal)
    # Under late enhancement the wall is dark where healthy and bright in patches of scar.
    patches = contrast.muscle + (0.05 + contrast.scar) * _smooth_noise(points.shape, rng, 5.0)
    canvas.cover(atrium.blood - np.float32(anatomy.wall_mm), np.clip(patches, 0.08, 1.15))
    pool = texture(points.shape, rng, 3.0, 0.06)
    for blood, value in bloods:
        canvas.cover(blood, value * pool)
    canvas.cover(atrium.blood, pool)
    canvas.cover(np.maximum(atrium.appendage, -atrium.cavity), contrast.appendage * pool)
    _paint_valve(canvas, points, anatomy, atrium, rng)
    return canvas.tissue


@dataclass
class Canvas:
    """The tissue signal under the brush; `voxel_mm` is how wide an edge between two tissues is."""

    tissue: Field
    voxel_mm: float

    def cover(self, distance: Field, value: Field | float) -> None:
        """Paint the inside of a solid (distance in mm); voxels on its edge get their share."""
        share = np.clip(0.5 - distance / np.float32(self.voxel_mm), 0.0, 1.0)
        self.tissue += share * (np.asarray(value, np.float32) - self.tissue)


def _paint_chest(
    canvas: Canvas, points: Points, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator
) -> None:
    """Lungs with their vessels, liver, spine and esophagus: what surrounds the heart."""
    air = float(rng.uniform(0.03, 0.08))
    width = anatomy.atrium.radii[0]
    pericardium = ellipsoid(points, np.array([-8.0, 30.0, -14.0]), np.array([width + 34, 62.0, 62.0]))
    for side in (-1.0, 1.0):
        center = np.array([side * (width + 50), -12.0 + rng.normal(0, 4), 12.0])
        lung = ellipsoid(points, center, np.array([46.0 + rng.normal(0, 4), 72.0, 105.0]))
        canvas.cover(carve(lung, pericardium, 2.0), air)
    for vessel in anatomy.lung_vessels:
        canvas.cover(tube(points, vessel), float(rng.uniform(0.5, 1.0)))
    liver = ellipsoid(points, np.array([40.0, 18.0, -88.0]), np.array([78.0, 72.0, 42.0 + rng.normal(0, 4)]))
    canvas.cover(liver, contrast.liver * texture(points.shape, rng, 1.5, 0.14))
    spine = tube(points, anatomy.vessels["spine"])
    canvas.cover(spine, rng.uniform(0.28, 0.42))
    canvas.cover(spine + np.float32(1.6), rng.uniform(0.09, 0.2) * texture(points.shape, rng, 1.5, 0.4))
    esophagus = carve(tube(points, anatomy.vessels["esophagus"]), spine, 1.5)
    canvas.cover(esophagus, rng.uniform(0.35, 0.55))
    canvas.cover(esophagus + np.float32(2.6), rng.uniform(0.1, 0.25))


def _neighbors(
    points: Points, anatomy: Anatomy, atrium: Atrium, contrast: Contrast, rng: np.random.Generator
) -> tuple[list[tuple[Field, float]], list[tuple[Field, Field | float]]]:
    """Walls and blood of the other chambers and great vessels, kept off the left heart by thin septa."""
    left = carve(_chamber(points, anatomy, "left_ventricle"), atrium.labeled, 0.0)
    # The appendage lies on the ventricle with its own wall between.
    left = carve(left, np.maximum(atrium.appendage, -atrium.cavity), anatomy.wall_mm)
    # The ventricle meets the atrium only through the valve; around it lies the fibrous ring.
    ring = np.maximum(-atrium.mitral, atrium.cavity - np.float32(anatomy.wall_mm))
    left = np.maximum(left, -ring) if rng.random() < 0.5 else np.maximum(left, -atrium.mitral)
    spread = contrast.blood_spread
    walls: list[tuple[Field, float]] = [(left - np.float32(rng.uniform(7, 11)), contrast.muscle)]
    bloods: list[tuple[Field, Field | float]] = []
    taken = np.minimum(atrium.blood, left)
    for name in ("right_atrium", "right_ventricle"):
        chamber = carve(_chamber(points, anatomy, name), taken, anatomy.septum_mm)
        walls.append((chamber - np.float32(rng.uniform(1.0, 2.2)), contrast.muscle * 1.2))
        bloods.append((chamber, contrast.right_blood + float(rng.normal(0, spread))))
        if name == "right_ventricle":
            # Blood runs from atrium to ventricle; only a trace of the tricuspid valve separates them.
            taken = np.minimum(taken, chamber)
    for name, vessel in anatomy.vessels.items():
        if name in ("spine", "esophagus"):
            continue
        lumen = carve(tube(points, vessel), taken, rng.uniform(0.7, 1.8))
        walls.append(
            (lumen - np.float32(rng.uniform(1.0, 1.8)), contrast.muscle * float(rng.uniform(0.9, 1.3)))
        )
        level = 1.0 if "aorta" in name else contrast.right_blood
        bloods.append((lumen, level + float(rng.normal(0, spread))))
        taken = np.minimum(taken, lumen)
    bloods.append((left, 0.97 + float(rng.normal(0, 0.6 * spread))))
    return walls, bloods


def _chamber(points: Points, anatomy: Anatomy, name: str) -> Field:
    """Signed distance in mm to a neighboring chamber of that attribute name."""
    chamber = getattr(anatomy, name)
    return ellipsoid(points, chamber.center, chamber.radii, chamber.axes)


def _paint_valve(
    canvas: Canvas, points: Points, anatomy: Anatomy, atrium: Atrium, rng: np.random.Generator
) -> None:
    """The mitral leaflets: thin, often open, so that the expert's straight cut has little to hold on to."""
    opening = float(rng.uniform(3, 15))
    center = anatomy.mitral_center.astype(np.float32)
    offset = np.sqrt((points.x - center[0]) ** 2 + (points.y - center[1]) ** 2 + (points.z - center[2]) ** 2)
    leaflet = np.maximum(np.abs(atrium.mitral - 0.6) - np.float32(0.6), np.float32(opening) - offset)
    leaflet = np.maximum(leaflet, atrium.cavity - 3.0)
    canvas.cover(leaflet, float(rng.uniform(0.35, 0.75)))


def texture(shape: tuple[int, int, int], rng: np.random.Generator, voxels: float, strength: float) -> Field:
    """Multiplicative tissue texture around 1: its grain in voxels and its standard deviation."""
    grain = 1.0 + np.float32(strength) * _smooth_noise(shape, rng, voxels)
    return np.clip(grain, 0.2, 2.0).astype(np.float32)


def _smooth_noise(shape: tuple[int, int, int], rng: np.random.Generator, voxels: float) -> Field:
    """Gaussian noise smoothed by a kernel of `voxels` standard deviation, brought back to unit variance."""
    spectrum = np.fft.rfftn(rng.standard_normal(shape))
    last = len(shape) - 1
    for axis, size in enumerate(shape):
        frequency = np.fft.rfftfreq(size) if axis == last else np.fft.fftfreq(size)
        kernel = np.exp(-2 * (np.pi * voxels * frequency) ** 2)
        spectrum *= kernel.reshape([-1 if other == axis else 1 for other in range(3)])
    noise = np.fft.irfftn(spectrum, shape, axes=(0, 1, 2))
    return np.asarray(noise / noise.std(), np.float32)


def _parameters(
    anatomy: Anatomy, scan: Acquisition, contrast: Contrast, label: NDArray[np.uint8]
) -> dict[str, Any]:
    """What the cohort file says about a case."""
    return {
        "shape": list(scan.shape),
        "spacing_mm": [float(size) for size in scan.spacing_mm],
        "orientation": scan.orientation,
        "oblique_degrees": scan.oblique_degrees,
        "protocol": contrast.protocol,
        "veins": [vein.name for vein in anatomy.veins],
        "heart_scale": round(anatomy.scale, 3),
        "noise": round(scan.noise, 3),
        "atrium_ml": round(float(label.sum() * scan.spacing_mm.prod() / 1000), 1),
    }
