"""refusals: what is wrong with DICOM objects, each a sentence naming the object by UID, never by patient."""

from __future__ import annotations

from ..errors import UnusableImage


class UnusableSeries(UnusableImage):
    """Instances that do not make one volume; unlike its base, its text names the series."""

    def __init__(self, uid: str, reason: str) -> None:
        super().__init__(f"The series {uid} cannot be used: {reason}")
        self.series_uid = uid


class UnusableSegmentation(ValueError):
    """A DICOM object that is no label of the series at hand; its text is the reason, a sentence."""


class UnusableMap(ValueError):
    """A DICOM object that is no map of the series at hand; its text is the reason, a sentence."""
