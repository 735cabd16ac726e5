"""plain_values: dataclasses from and to plain data, with sentences for what is wrong."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def require(ok: bool, sentence: str) -> None:
    """Raise ValueError with the sentence unless `ok`."""
    if not ok:
        raise ValueError(sentence)


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError naming the value and the allowed ones unless it is one of them."""
    require(value in allowed, f"{name} is {value!r}; allowed: {', '.join(allowed)}.")


def plain(value: Any) -> Any:
    """The value with every tuple a list, as JSON would give it back."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def built(cls: type[T], values: Any, path: str) -> T:
    """The dataclass from a plain dict, the inverse of `plain`; ValueError says what is wrong under `path`."""
    require(isinstance(values, dict), f"{path} is {values!r}; it must be a table of names and values.")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    require(not unknown, f"{path} has no {', '.join(unknown)}; it has {', '.join(sorted(hints))}.")
    return cls(**{name: _convert(hints[name], value, f"{path}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return built(hint, value, path)
    if get_origin(hint) is tuple:
        require(isinstance(value, list | tuple), f"{path} is {value!r}; it must be a list.")
        items = get_args(hint)
        fixed = len(items) if items[-1] is not Ellipsis else len(value)
        require(len(value) == fixed, f"{path} is {value!r}; it must have {fixed} entries.")
        return tuple(_convert(items[0], entry, path) for entry in value)
    if hint is str:
        require(isinstance(value, str), f"{path} is {value!r}; it must be text.")
        return value
    try:
        require(not isinstance(value, bool) and math.isfinite(value), "")
        require(hint is not int or value == int(value), "")
        return hint(value)
    except (TypeError, ValueError) as error:
        kind = "a whole number" if hint is int else "a number"
        raise ValueError(f"{path} is {value!r}; it must be {kind}.") from error
