"""precision_probe: which number format this machine is fastest with, measured at start for the project's
network."""

from __future__ import annotations

import logging

from ugmcl.precision import Precision, choose_precision, resolve_device
from ugmcl.presets import preset

from .datastore import FolderDatastore
from .errors import UnusableImage
from .settings import AppSettings
from .volumes import read_header

logger = logging.getLogger(__name__)

SCANS = 8
"""Headers read for the shape of a typical scan."""


def probe_precision(settings: AppSettings, datastore: FolderDatastore) -> Precision | None:
    """Measure with the preset the project's scans would get; None, and a line in the log, if that fails."""
    shapes, spacings = [], []
    for image_id in datastore.list_images()[:SCANS]:
        try:
            header = read_header(datastore.get_image_uri(image_id))
        except UnusableImage:
            continue
        x, y, z = header.shape
        shapes.append((x, y, z))
        lengths = [float((header.affine[:3, axis] ** 2).sum() ** 0.5) for axis in range(3)]
        spacings.append((lengths[0], lengths[1], lengths[2]))
    try:
        device = resolve_device(settings.device)
        geometry = (shapes, spacings) if shapes else ([(64, 64, 64)], [(1.0, 1.0, 1.0)])
        return choose_precision(preset(settings.preset, settings.labels, *geometry, device), device)
    except Exception:
        # Each model then measures for itself when it is loaded: slower by a few seconds, never wrong.
        logger.exception("Measuring the number formats failed.")
        return None
