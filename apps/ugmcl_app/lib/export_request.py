"""export_request: what an export is asked to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import Refusal

FOLDER, MONAILABEL = "folder", "monailabel"
LAYOUTS = (FOLDER, MONAILABEL)
COPY, REFERENCE, NONE = "copy", "reference", "none"
IMAGES = (COPY, REFERENCE, NONE)


@dataclass(frozen=True)
class ExportRequest:
    """What an export holds.

    Attributes:
        layout: `folder`: `images/`, `labels/`, and a `dataset.json` in the form of the Medical Segmentation
            Decathlon; `monailabel`: what the stock server opens as its studies.
        images: `copy`, `reference` (their paths, in `dataset.json`) or `none`.
        cases: Ids of the cases; None: every case that has a final label.
        unlabeled: Also cases without a final label, as images.
        originals: Also the proposals of models that are kept beside the labels.
        maps: Also the uncertainty maps that are kept.
    """

    layout: str = FOLDER
    images: str = COPY
    cases: tuple[str, ...] | None = None
    unlabeled: bool = False
    originals: bool = False
    maps: bool = False

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> ExportRequest:
        """Build a request from its plain form, what is left out as by default.

        Raises:
            Refusal: 422 for a value that is not allowed, or two that do not fit together.
        """
        known = {entry.name for entry in fields(cls)}
        given = {key: value for key, value in asked.items() if key in known}
        cases = given.get("cases")
        given["cases"] = None if cases is None else tuple(sorted({str(case_id) for case_id in cases}))
        request = cls(**given)
        for key, allowed in (("layout", LAYOUTS), ("images", IMAGES)):
            value = getattr(request, key)
            if value not in allowed:
                raise Refusal(
                    422, f"{key} {str(value)[:80]!r} is not known here; allowed: {', '.join(allowed)}."
                )
        if request.layout == MONAILABEL and request.images != COPY:
            raise Refusal(
                422,
                "MONAI Label opens a folder together with its images; leave out `images`, or ask for the "
                f"layout {FOLDER!r}.",
            )
        if request.unlabeled and request.images == NONE:
            raise Refusal(422, "Of cases without a label, images are all there is; leave out one of the two.")
        return request

    def plain(self) -> dict[str, Any]:
        """As plain data, for the database and for `of`."""
        return {**asdict(self), "cases": None if self.cases is None else list(self.cases)}
