"""structures: the classes of a project as DICOM segments: name, value, and coded terms, in both directions.

A segment's number says nothing about a class: writers count 1..n as they like. A class is found by the
segment's label, or else by its code; the value is the project's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..settings import DEFAULT_LABEL
from .refusals import UnusableSegmentation

BUILT_IN_CODES = Path(__file__).with_name("structure_codes.json")
MAX_VALUE = 65535
"""Largest value of a class: LABELMAP pixels have at most 16 bits."""


class Code(NamedTuple):
    """A coded term: value, the coding scheme it is from, and what it says to people."""

    value: str
    scheme: str
    meaning: str


ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
"""The type of a class without a code of its own; it names no class when it is read."""
DEFAULT_COLOR = (128, 174, 128)
_LIMITS = {"value": 16, "scheme": 16, "meaning": 64}  # characters of the DICOM attributes, VR SH and LO


@dataclass(frozen=True)
class Terms:
    """How a structure is coded.

    Attributes:
        type: What it is.
        category: The kind of thing that is.
        modifier: Laterality, where it has one.
        color_rgb: Recommended display color, each in [0, 255].
    """

    type: Code = TISSUE
    category: Code = ANATOMICAL_STRUCTURE
    modifier: Code | None = None
    color_rgb: tuple[int, int, int] = DEFAULT_COLOR

    @property
    def key(self) -> tuple[str, ...] | None:
        """What tells this structure from others by code; None for the generic type."""
        if (self.type.value, self.type.scheme) == TISSUE[:2]:
            return None
        modifier = self.modifier or Code("", "", "")
        return (self.type.scheme, self.type.value, modifier.scheme, modifier.value)


@dataclass(frozen=True)
class Structure:
    """A class of the project: its name, its value in label arrays (1..65535) and its terms."""

    name: str
    value: int
    terms: Terms = Terms()


@dataclass(frozen=True)
class StructureMap:
    """The classes of a project; kept as JSON, so that values survive what viewers do to segment numbers."""

    structures: tuple[Structure, ...]

    def __post_init__(self) -> None:
        names = [structure.name.casefold() for structure in self.structures]
        values = [structure.value for structure in self.structures]
        if not self.structures or len(set(names)) < len(names) or len(set(values)) < len(values):
            raise ValueError("A project needs classes, each with a name and a value of its own.")
        for structure in self.structures:
            if not 1 <= structure.value <= MAX_VALUE or not 1 <= len(structure.name) <= 64:
                raise ValueError(
                    f"The class {structure.name[:80]!r} has the value {structure.value}; allowed are values "
                    f"from 1 to {MAX_VALUE} and names of 1 to 64 characters."
                )

    @classmethod
    def of(cls, labels: Mapping[str, int], codes: Mapping[str, Terms] | None = None) -> StructureMap:
        """The map of a project's classes.

        Args:
            labels: `{name: value}`.
            codes: Terms by casefolded name, as `read_codes` gives them; None: the built-in ones.
        """
        known = read_codes() if codes is None else codes
        return cls(tuple(Structure(n, v, known.get(n.casefold(), Terms())) for n, v in labels.items()))

    @property
    def dtype(self) -> str:
        """The smallest unsigned type for label arrays."""
        return "uint8" if max(structure.value for structure in self.structures) < 256 else "uint16"

    def with_value(self, value: int) -> Structure | None:
        """The class of a value; None for a value no class has."""
        return next((found for found in self.structures if found.value == value), None)

    def find(self, label: str, terms: Terms) -> Structure:
        """The class a segment means: by its label, else by its code.

        Raises:
            UnusableSegmentation: If it is none of the classes, or label and code name two.
        """
        by_label = [found for found in self.structures if found.name.casefold() == label.strip().casefold()]
        by_code = [f for f in self.structures if terms.key is not None and f.terms.key == terms.key]
        if by_label and by_code and by_label[0] not in by_code:
            raise UnusableSegmentation(
                f"The segment {label[:64]!r} is coded as {terms.type.meaning!r}, which is the class "
                f"{by_code[0].name!r}; make label and code agree."
            )
        if by_label:
            return by_label[0]
        if len(by_code) == 1:
            return by_code[0]
        names = ", ".join(found.name for found in self.structures)
        raise UnusableSegmentation(
            f"The segment {label[:64]!r} (coded as {terms.type.meaning!r}) is no class of this project; the "
            f"classes are {names}. Rename or delete the segment."
        )

    @property
    def any_single_name(self) -> bool:
        """Whether one segment alone may carry any name: no class was named for the project."""
        return [structure.name for structure in self.structures] == [DEFAULT_LABEL]

    def to_json(self) -> dict[str, Any]:
        """The map as JSON values; `from_json` reads them."""
        return {
            "structures": [
                {"value": s.value, "name": s.name, **_terms_json(s.terms)} for s in self.structures
            ]
        }

    @classmethod
    def from_json(cls, value: Any) -> StructureMap:
        """What `to_json` wrote.

        Raises:
            ValueError: For anything else.
        """
        try:
            entries = value["structures"]
            return cls(tuple(Structure(str(e["name"]), int(e["value"]), _terms(e)) for e in entries))
        except (KeyError, TypeError) as error:
            raise ValueError(
                "The stored classes are damaged: name, value and type of each are needed."
            ) from error


def read_codes(extra: Path | str | None = None) -> dict[str, Terms]:
    """Coded terms by casefolded structure name: the built-in table, and over it the user's file.

    Args:
        extra: A JSON file of the form of `structure_codes.json`; see docs/dicom.md.

    Raises:
        ValueError: If the file is not of that form.
    """
    table: dict[str, Terms] = {}
    for path in (BUILT_IN_CODES, *([Path(extra)] if extra else [])):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["structures"]
            for entry in entries:
                table.update(dict.fromkeys((str(name).casefold() for name in entry["names"]), _terms(entry)))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"The table of codes {path} cannot be used ({error}). Its form is "
                '{"structures": [{"names": ["spleen"], "type": {"value": "78961009", "scheme": "SCT", '
                '"meaning": "Spleen"}}]}; category, modifier and color_rgb may be added.'
            ) from error
    return table


def _terms(entry: Mapping[str, Any]) -> Terms:
    color: Sequence[Any] = entry.get("color_rgb", DEFAULT_COLOR)
    if len(color) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
        raise ValueError(f"color_rgb is {color}; three whole numbers from 0 to 255 are needed")
    category = _code(entry["category"]) if entry.get("category") else ANATOMICAL_STRUCTURE
    modifier = _code(entry["modifier"]) if entry.get("modifier") else None
    return Terms(_code(entry["type"]), category, modifier, (color[0], color[1], color[2]))


def _code(entry: Mapping[str, Any]) -> Code:
    for part, limit in _LIMITS.items():
        text = entry.get(part)
        if not isinstance(text, str) or not 1 <= len(text) <= limit:
            raise ValueError(f"the {part} of a code is {text!r}; a text of 1 to {limit} characters is needed")
    return Code(entry["value"], entry["scheme"], entry["meaning"])


def _terms_json(terms: Terms) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": terms.type._asdict(), "category": terms.category._asdict()}
    if terms.modifier is not None:
        entry["modifier"] = terms.modifier._asdict()
    return {**entry, "color_rgb": list(terms.color_rgb)}
