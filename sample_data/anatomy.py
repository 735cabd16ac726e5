"""The anatomy of one phantom: sizes, vessels and neighbors drawn from a random generator.

Positions are mm from the middle of the left atrium, x to the patient's right, y anterior, z superior. Sizes
are those of adults with and without atrial dilation; variants (a common left trunk, a right middle vein)
occur in about every fourth heart, so a handful of labels does not show them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sample_data.shapes import Tube, Vector, curve


@dataclass(frozen=True)
class Vein:
    """A pulmonary vein: its tube and where an expert stops calling it atrium.

    Attributes:
        name: Anatomical name, e.g. "right superior".
        tube: The vein from inside the atrium into the lung.
        cut: A point of the ostial cut in mm, shape (3,).
        direction: Normal of the cut, outward, shape (3,).
        branches: Its branches in the lung.
    """

    name: str
    tube: Tube
    cut: Vector
    direction: Vector
    branches: tuple[Tube, ...]


@dataclass(frozen=True)
class Chamber:
    """An ellipsoidal chamber: center and semi-axes in mm, shape (3,), rows of `axes` their directions."""

    center: Vector
    radii: Vector
    axes: Vector


@dataclass(frozen=True)
class Anatomy:
    """Everything about a heart that does not depend on how it is scanned."""

    atrium: Chamber
    lobe: Chamber
    veins: tuple[Vein, ...]
    appendage: Tube
    mitral_center: Vector
    mitral_normal: Vector
    left_ventricle: Chamber
    right_atrium: Chamber
    right_ventricle: Chamber
    vessels: dict[str, Tube]
    lung_vessels: tuple[Tube, ...]
    septum_mm: float
    wall_mm: float
    scale: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """One heart; the same generator state gives the same heart."""
    scale = float(rng.uniform(0.86, 1.16))
    radii = np.array([rng.uniform(26, 36), rng.uniform(16, 24), rng.uniform(19, 29)]) * scale
    atrium = Chamber(np.zeros(3), radii, rotation(rng.normal(0, 9, 3)))
    side = rng.choice([-1.0, 1.0])
    lobe_center = radii * np.array(
        [side * rng.uniform(0.2, 0.55), rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.5)]
    )
    lobe = Chamber(lobe_center, radii * rng.uniform(0.5, 0.8, 3), rotation(rng.normal(0, 20, 3)))
    normal = unit(np.array([-0.62, 0.55, -0.56]) + rng.normal(0, 0.13, 3))
    # The plane cuts the atrium a little inside the point where a plane of this normal would touch it.
    reach = radii * normal
    mitral = radii * reach / float(np.linalg.norm(reach)) * rng.uniform(0.72, 0.88)
    return Anatomy(
        atrium=atrium,
        lobe=lobe,
        veins=_draw_veins(rng, radii),
        appendage=_draw_appendage(rng, radii),
        mitral_center=mitral,
        mitral_normal=normal,
        left_ventricle=_draw_left_ventricle(rng, mitral, normal, scale),
        right_atrium=Chamber(
            np.array([radii[0] * 0.75 + 12, radii[1] * 0.6 + 12, -6.0]) + rng.normal(0, 4, 3),
            rng.uniform([18, 19, 22], [26, 27, 31]) * scale,
            rotation(rng.normal(0, 14, 3)),
        ),
        right_ventricle=Chamber(
            np.array([8.0, radii[1] + 36, -26]) + rng.normal(0, 4, 3),
            rng.uniform([30, 20, 24], [42, 28, 32]) * scale,
            rotation(rng.normal(0, 12, 3)),
        ),
        vessels=_draw_vessels(rng, radii),
        lung_vessels=_draw_lung_vessels(rng, radii),
        septum_mm=float(rng.uniform(0.8, 2.0)),
        wall_mm=float(rng.uniform(1.0, 2.2)),
        scale=scale,
    )


def unit(vector: Vector) -> Vector:
    """The vector at length one, shape (3,)."""
    return np.asarray(vector / np.linalg.norm(vector), float)


def rotation(degrees: Vector) -> Vector:
    """Rotation matrix, shape (3, 3), of successive turns in degrees, shape (3,), about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _draw_veins(rng: np.random.Generator, radii: Vector) -> tuple[Vein, ...]:
    """Three to five veins: two a side, or a common left trunk, or a third on the right."""
    # (side, anterior and superior position of the ostium in semi-axes, superior slope, radius range in mm)
    plan: list[tuple[str, float, float, float, float, tuple[float, float]]] = [
        ("right superior", 1.0, -0.25, 0.45, 0.35, (5.5, 8.5)),
        ("right inferior", 1.0, -0.55, -0.4, -0.3, (5.0, 8.0)),
    ]
    if rng.random() < 0.25:
        plan.append(("left common", -1.0, -0.4, 0.1, 0.05, (8.0, 10.5)))
    else:
        plan.append(("left superior", -1.0, -0.25, 0.45, 0.4, (5.5, 8.5)))
        plan.append(("left inferior", -1.0, -0.6, -0.35, -0.2, (4.5, 7.5)))
    if rng.random() < 0.3:
        plan.append(("right middle", 1.0, -0.1, 0.0, 0.0, (3.2, 4.8)))
    return tuple(_draw_vein(rng, radii, *entry) for entry in plan)


def _draw_vein(
    rng: np.random.Generator,
    radii: Vector,
    name: str,
    side: float,
    anterior: float,
    superior: float,
    slope: float,
    caliber: tuple[float, float],
) -> Vein:
    """A vein from inside the atrium, over its ostium, curving back into the lung and forking there."""
    ostium = radii * np.array([side * 0.78, anterior, superior]) + rng.normal(0, 1.8, 3)
    out = unit(np.array([side, -0.55, slope]) + rng.normal(0, 0.18, 3))
    bend = unit(out + np.array([0.0, -0.35, slope * 0.6]) + rng.normal(0, 0.25, 3))
    radius = float(rng.uniform(*caliber))
    length = float(rng.uniform(30, 44))
    end = ostium + out * 10 + bend * length
    control = np.stack([ostium * 0.45, ostium, ostium + out * length * 0.45, end])
    path = curve(control, 9)
    # Flared at the ostium, then nearly even, as veins are.
    along = np.linspace(0, 1, 9)
    radii_mm = radius * (0.72 + 0.38 * np.exp(-(((along - 0.22) / 0.22) ** 2)) - 0.1 * along)
    stop = int(rng.integers(4, 6))
    tip = path[-1]
    forks = tuple(
        Tube(
            curve(np.stack([tip, tip + bend * 9, tip + unit(bend + rng.normal(0, 0.7, 3)) * 24]), 4),
            np.linspace(radii_mm[-1], 1.8, 4),
        )
        for _ in range(2)
    )
    return Vein(name, Tube(path, radii_mm), path[stop], unit(path[stop + 1] - path[stop - 1]), forks)


def _draw_appendage(rng: np.random.Generator, radii: Vector) -> Tube:
    """The appendage: a hooked, lobulated sac from the left anterior wall, in no two hearts alike."""
    root = radii * np.array([-0.66, 0.5, 0.25]) + rng.normal(0, 1.5, 3)
    out = unit(np.array([-0.8, 0.75, 0.25]) + rng.normal(0, 0.22, 3))
    hook = unit(np.array([0.1, 0.8, -0.7]) + rng.normal(0, 0.45, 3))
    length = rng.uniform(14, 26)
    tip = root + (out + hook) * length * 0.8
    path = curve(np.stack([root * 0.6, root + out * length * 0.5, root + out * length, tip]), 9)
    lobes = 1 + 0.22 * np.sin(np.linspace(0, rng.uniform(5, 11), 9) + rng.uniform(0, 6))
    return Tube(path, np.linspace(rng.uniform(6.5, 9.5), rng.uniform(3, 6), 9) * lobes)


def _draw_left_ventricle(rng: np.random.Generator, mitral: Vector, normal: Vector, scale: float) -> Chamber:
    """The ventricle hangs on the mitral valve: its base overlaps the plane, so the blood is one."""
    short = rng.uniform(22, 29) * scale
    length = rng.uniform(34, 44) * scale
    axis = unit(normal + rng.normal(0, 0.08, 3))
    across = unit(np.cross(axis, [0.0, 0.0, 1.0]))
    center = mitral + axis * (length - rng.uniform(9, 16))
    return Chamber(center, np.array([length, short, short]), np.stack([axis, across, np.cross(axis, across)]))


def _draw_vessels(rng: np.random.Generator, radii: Vector) -> dict[str, Tube]:
    """The great vessels around the atrium, the esophagus and the spine, each as a tube."""
    front, back, roof = radii[1] + 3.0, -radii[1] - 3.0, radii[2] + 3.0
    plan: dict[str, tuple[list[list[float]], tuple[float, float]]] = {
        "ascending aorta": (
            [[-4, front + 10, -12], [8, front + 12, 8], [14, front + 10, 34], [10, front + 2, 75]],
            (13, 17),
        ),
        "descending aorta": (
            [[-20, back - 14, -80], [-19, back - 12, -20], [-17, back - 12, 20], [-22, back - 10, 80]],
            (9, 13),
        ),
        "pulmonary trunk": (
            [
                [-16, front + 30, 6],
                [-20, front + 24, 24],
                [-18, front + 8, roof + 10],
                [-8, front - 8, roof + 13],
            ],
            (11, 14),
        ),
        "right pulmonary artery": (
            [[-10, front - 8, roof + 12], [12, 2, roof + 9], [34, -4, roof + 7], [66, -16, roof + 4]],
            (7, 10),
        ),
        "left pulmonary artery": (
            [[-12, front - 8, roof + 13], [-28, -8, roof + 13], [-44, -20, roof + 8], [-62, -34, roof - 4]],
            (6, 9),
        ),
        "superior vena cava": (
            [[34, front + 2, 8], [34, front - 1, 28], [33, front, 50], [30, front + 2, 80]],
            (7, 10),
        ),
        "inferior vena cava": (
            [[34, front - 4, -16], [33, front - 10, -36], [31, front - 14, -60], [30, front - 16, -90]],
            (8, 12),
        ),
        "coronary sinus": (
            [[24, 6, -radii[2] - 4], [4, -2, -radii[2] - 6], [-20, 0, -radii[2] - 2], [-34, 10, -8]],
            (2.2, 3.8),
        ),
        "esophagus": (
            [[-2, back - 6, -80], [-4, back - 6, -20], [-3, back - 5, 20], [2, back - 12, 80]],
            (4.5, 7),
        ),
        "spine": (
            [[1, back - 33, -90], [0, back - 31, -30], [0, back - 31, 30], [1, back - 34, 90]],
            (15, 19),
        ),
    }
    drift = rng.normal(0, 2.5, 3)
    vessels = {}
    for name, (control, caliber) in plan.items():
        path = curve(np.asarray(control, float) + drift + rng.normal(0, 2.0, (4, 3)), 8)
        vessels[name] = Tube(path, np.full(8, rng.uniform(*caliber)) * (1 + 0.04 * rng.normal(size=8)))
    return vessels


def _draw_lung_vessels(rng: np.random.Generator, radii: Vector) -> tuple[Tube, ...]:
    """Short vessels of the hila: bright dots and streaks in the lungs that are no part of the atrium."""
    vessels = []
    for _ in range(int(rng.integers(18, 34))):
        side = rng.choice([-1.0, 1.0])
        start = np.array([side * (radii[0] + rng.uniform(8, 34)), rng.uniform(-45, 18), rng.uniform(-45, 45)])
        run = unit(np.array([side, -0.3, 0.0]) + rng.normal(0, 0.8, 3)) * rng.uniform(8, 22)
        vessels.append(Tube(np.stack([start, start + run]), rng.uniform([1.4, 0.8], [2.8, 1.8])))
    return tuple(vessels)
