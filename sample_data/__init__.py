"""A deterministic cohort of left-atrium-like MR phantoms: the generator, never the volumes.

`generate` writes scans, expert-like reference labels and held-out cases; `python -m sample_data --out DIR` is
the same from a terminal. The README beside this file describes the anatomy and the acquisition model.
"""

from sample_data.cohort import CohortError, generate

__all__ = ["CohortError", "generate"]
