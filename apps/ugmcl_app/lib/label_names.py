"""label_names: what each value of a submitted label means, by name, in the project's own values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ugmcl.uncertainty import BAND_NAMES

from .errors import Refusal
from .settings import DEFAULT_LABEL

_FORM = 'label_info is a list like [{"name": "foreground", "idx": 1}]'


def map_values(values: Sequence[int], labels: Mapping[str, int], label_info: Any) -> dict[int, int]:
    """Map the non-zero values present in a label to the project's values.

    Args:
        values: Distinct non-zero values of the label.
        labels: The project's classes, `{name: value}`. The default project, `{"foreground": 1}`, takes its
            one segment under any name.
        label_info: `[{"name", "idx"}]` as a viewer sends it, or None or empty: the values are the project's.

    Returns:
        `{submitted value: project value}` for every value present.

    Raises:
        Refusal: 422 for a value without a meaning or with two, a non-empty segment with an unknown name, or a
            malformed `label_info`.
    """
    if not label_info:
        unknown = [value for value in values if value not in labels.values()]
        if unknown:
            raise Refusal(
                422,
                f"The label holds the value {_listed(unknown)}, which no class of this project has; allowed: "
                f"0 and {_classes(labels)}. Other values need label_info to say what each means.",
            )
        return {value: value for value in values}
    by_idx, in_order = _readings(values, label_info)
    mapped = _mapped(values, by_idx or in_order, labels)
    if by_idx and in_order and not _same(mapped, values, in_order, labels):
        value = next(value for value in values if by_idx[value] != in_order[value])
        raise Refusal(
            422,
            f"The label holds the value {value}, which may mean two things: label_info gives its idx to "
            f"{_shown(by_idx[value])}, and counted in order, as 3D Slicer's exports are, it is "
            f"{_shown(in_order[value])}. In Slicer, delete the segment that comes before them and is left "
            'out of the export, such as "background"; elsewhere, let idx count the entries of label_info '
            "as 1, 2, 3. Then submit again.",
        )
    for value in values:
        if {names[value].casefold() for names in (by_idx, in_order) if names} == {"background"}:
            raise Refusal(
                422,
                "The label's only segment is named 'background', which is what is not segmented. Rename it "
                "if it holds the structure, or submit the segment that does.",
            )
    return mapped


def _same(
    mapped: Mapping[int, int], values: Sequence[int], names: Mapping[int, str], labels: Mapping[str, int]
) -> bool:
    try:
        return _mapped(values, names, labels) == mapped
    except Refusal:
        return False


def _mapped(values: Sequence[int], names: Mapping[int, str], labels: Mapping[str, int]) -> dict[int, int]:
    unnamed = [value for value in values if value not in names]
    if unnamed:
        raise Refusal(422, f"The label holds the value {_listed(unnamed)}, which label_info does not name.")
    bands = [names[value] for value in values if names[value].casefold() in BAND_NAMES]
    if bands and not set(map(str.casefold, bands)) & set(map(str.casefold, labels)):
        raise Refusal(
            422,
            f"The label holds the uncertainty bands {_listed(bands)}: delete the segments "
            f"{', '.join(BAND_NAMES)} first, then submit again. In an export they overwrite "
            "the organ wherever they overlap it.",
        )
    return _project_values(values, names, labels)


def _project_values(
    values: Sequence[int], names: Mapping[int, str], labels: Mapping[str, int]
) -> dict[int, int]:
    by_name = {name.casefold(): value for name, value in labels.items()}
    unknown = [names[value] for value in values if names[value].casefold() not in by_name]
    if unknown and tuple(labels) == (DEFAULT_LABEL,):
        if len(values) == 1:
            return {values[0]: labels[DEFAULT_LABEL]}
        raise Refusal(
            422,
            f"The label has {len(values)} segments ({_listed([names[value] for value in values])}), and this "
            "project has one class. Keep one segment, or start the app with --conf labels NAME1,NAME2.",
        )
    if unknown:
        raise Refusal(
            422,
            f"The label has a segment named {_listed(unknown)}; the classes of this project are "
            f"{_classes(labels)}. Rename or delete that segment, then submit again.",
        )
    return {value: by_name[names[value].casefold()] for value in values}


def _readings(values: Sequence[int], label_info: Any) -> tuple[dict[int, str], dict[int, str]]:
    """The names of values, read by `idx` and in order; a reading that cannot be meant is empty, not both are.

    3D Slicer counts `idx` over all segments but exports only some ("background" is left out), as 1, 2, 3, ...
    The others mean their `idx`. Only the values present can tell which it was.
    """
    named = _names_by_idx(label_info)
    in_order = {index + 1: name for index, (_, name) in enumerate(sorted(named.items()))}
    if not set(values) <= set(in_order):
        return named, {}
    if not set(values) <= set(named):
        return {}, in_order
    return named, in_order


def _names_by_idx(label_info: Any) -> dict[int, str]:
    if not isinstance(label_info, list):
        raise Refusal(422, f"{_FORM}; given was {type(label_info).__name__}.")
    named: dict[int, str] = {}
    for entry in label_info:
        name = entry.get("name") if isinstance(entry, dict) else None
        value = entry.get("idx", entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise Refusal(422, f"{_FORM}; one of its entries has no text `name` or no number `idx`.")
        if not math.isfinite(value) or value != int(value) or int(value) in named:
            raise Refusal(
                422, f"{_FORM}; `idx` must be whole and different for each entry, {value:g} is not."
            )
        named[int(value)] = name.strip()
    return named


def _shown(name: str) -> str:
    return f"the segment {name[:60]!r}"


def _listed(values: Sequence[Any]) -> str:
    shown = [str(value)[:60] for value in values[:5]]
    return ", ".join(shown) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _classes(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in labels.items())
