"""Tissue signals of the three cardiac protocols the cohort mixes, relative to the blood of the left heart.

A project's first labels often come from one scanner protocol while its pool holds several. Here the first
four cases are late-enhancement scans, all others take turns; a model that has only seen the first four is
unsure of the rest, and should be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LATE_ENHANCEMENT, ANGIOGRAPHY, STEADY_STATE = "late enhancement", "angiography", "steady state"
PROTOCOLS = (LATE_ENHANCEMENT, STEADY_STATE, ANGIOGRAPHY)

FIRST_SITE = 4
"""Cases at the start of a cohort that all come from the late-enhancement protocol."""


@dataclass(frozen=True)
class Contrast:
    """Signals of one scan, in units of the left heart's blood.

    Attributes:
        protocol: Its name.
        fat: Fat and connective tissue around the heart.
        grain: Standard deviation of the fat's texture, relative.
        muscle: Myocardium and vessel walls.
        scar: How strongly patches of the atrial wall stand out; 0 without late enhancement.
        right_blood: Blood of the right heart, caval veins and pulmonary arteries.
        blood_spread: How far the blood of single vessels strays from that.
        appendage: Slow blood in the appendage.
        liver: Liver.
    """

    protocol: str
    fat: float
    grain: float
    muscle: float
    scar: float
    right_blood: float
    blood_spread: float
    appendage: float
    liver: float


def draw_contrast(rng: np.random.Generator, index: int) -> Contrast:
    """Protocol and signals of case number `index`; the same generator state gives the same signals."""
    protocol = LATE_ENHANCEMENT if index < FIRST_SITE else PROTOCOLS[index % len(PROTOCOLS)]
    slow = float(rng.uniform(0.6, 1.0))
    if protocol == LATE_ENHANCEMENT:
        # Fat suppressed, healthy myocardium nulled, scar bright.
        fat, muscle, liver = rng.uniform(0.2, 0.36), rng.uniform(0.12, 0.34), rng.uniform(0.4, 0.6)
        return Contrast(protocol, fat, 0.3, muscle, 0.42, rng.uniform(0.82, 1.04), 0.08, slow, liver)
    if protocol == ANGIOGRAPHY:
        # Timed on the first pass of contrast: the right heart is ahead of the left, or already washed out.
        right = rng.choice([rng.uniform(0.5, 0.8), rng.uniform(1.15, 1.5)])
        fat, muscle, liver = rng.uniform(0.1, 0.22), rng.uniform(0.2, 0.45), rng.uniform(0.2, 0.4)
        return Contrast(protocol, fat, 0.25, muscle, 0.0, float(right), 0.1, slow, liver)
    # Steady-state free precession: blood and fat are both bright, only walls and air are dark.
    fat, muscle, liver = rng.uniform(0.6, 1.0), rng.uniform(0.28, 0.5), rng.uniform(0.35, 0.55)
    return Contrast(
        protocol, fat, 0.22, muscle, 0.0, rng.uniform(0.85, 1.05), 0.1, min(1.0, slow + 0.15), liver
    )
