"""settings: the app's options, parsed once from the host's `--conf KEY VALUE` strings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ugmcl.agreement import AGREEMENT_DICE
from ugmcl.presets import PRESETS
from ugmcl.uncertainty import BAND_NAMES

DEFAULT_LABEL = "foreground"
_HOST_KEYS = {"server_mode"}  # read by MONAILabelApp itself
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def _labels(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ValueError("every name between the commas must be non-empty")
    if len({name.casefold() for name in names}) != len(names):
        raise ValueError("no name may occur twice")
    taken = {"background", *BAND_NAMES} & {name.casefold() for name in names}
    if taken:
        raise ValueError(f"{sorted(taken)} name the background and the uncertainty bands, not an organ")
    if len(names) > 255:
        raise ValueError("a project has at most 255 classes")
    return names


def _boolean(text: str) -> bool:
    value = text.strip().casefold()
    if value not in _TRUE | _FALSE:
        raise ValueError("allowed are true and false")
    return value in _TRUE


def _number(kind: Callable[[str], Any], low: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"allowed is {'an integer' if kind is int else 'a number'}") from None
        if not math.isfinite(value) or value < low:
            raise ValueError(f"allowed is {low:g} or more")
        return value

    return parse


def _share(text: str) -> float:
    value: float = _number(float, 0)(text)
    if value > 1:
        raise ValueError("allowed is 0 to 1")
    return value


def _preset(text: str) -> str:
    if text not in PRESETS:
        raise ValueError(f"allowed are {', '.join(PRESETS)}")
    return text


def _modalities(text: str) -> tuple[str, ...]:
    found = tuple(part.strip().upper() for part in text.split(",") if part.strip())
    if not found or not set(found) <= {"MR", "CT"}:
        raise ValueError("allowed are MR, CT, and MR,CT")
    return tuple(dict.fromkeys(found))


def _search(text: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(parse_qsl(text, strict_parsing=bool(text)))
    except ValueError:
        raise ValueError("allowed are attributes with values, as in StudyDescription=RESEARCH") from None


def _form(text: str) -> str:
    if text not in ("BINARY", "LABELMAP"):
        raise ValueError("allowed are BINARY and LABELMAP")
    return text


def _web_address(text: str) -> str:
    if text and (not text.startswith(("http://", "https://")) or not urlsplit(text).hostname):
        raise ValueError("allowed is an address that begins with http:// or https://")
    return text


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if text not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdigit()):
        raise ValueError("allowed are auto, cpu, cuda and cuda:N")
    return text


def _option(default: Any, parse: Callable[[str], Any]) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True)
class AppSettings:
    """Options of one project; each field is a `--conf` key of the same name."""

    labels: tuple[str, ...] = _option((DEFAULT_LABEL,), _labels)
    """Class names, comma-separated; the value of `labels[i]` is i + 1."""
    workspace: str = _option("", str)
    """Folder of models, rounds, scores and maps; empty: `<studies>/.ugmcl`."""
    database: str = _option("", str)
    """URL of a PostgreSQL database for the catalogue; empty: a file in the workspace."""
    preset: str = _option("default", _preset)
    """Preset of the method, one of `ugmcl.presets.PRESETS`."""
    device: str = _option("auto", _device)
    """auto, cpu, cuda or cuda:N."""
    min_labels: int = _option(1, _number(int, 1))
    """New final labels that start a round."""
    debounce_s: float = _option(5.0, _number(float, 0))
    """Seconds without a further label before the round starts."""
    publish_margin: float = _option(0.0, _number(float, 0))
    """Dice a candidate may lose on today's validation cases and still be published, in [0, 1]."""
    allow_empty_labels: bool = _option(False, _boolean)
    """Accept all-zero labels without `params.no_finding`, for viewers that cannot send it."""
    lease_s: float = _option(3600.0, _number(float, 1))
    """Seconds for which a case belongs to the reader it was offered to, from the last sign of life."""
    diverse_batch: int = _option(0, _number(int, 0))
    """Cases of a batch that is uncertain and diverse, offered by `most_uncertain`; 0: by score alone."""
    agreement_dice: float = _option(AGREEMENT_DICE, _share)
    """Dice in [0, 1] that every class of every two readers must reach for their case to be decided."""
    round_seconds: float = _option(90.0, _number(float, 1))
    """Training seconds that a round on a CPU is planned for when it begins; it has at least 40 steps."""
    threads: int = _option(0, _number(int, 0))
    """CPU threads of a round; 0 chooses."""

    webhook: str = _option("", _web_address)
    """Address that is told of saved labels and published models; empty: nobody."""
    codes: str = _option("", str)
    """JSON file with coded terms of structures, beside the built-in ones; see docs/dicom.md."""
    pacs_user: str = _option("", str)
    """User at the PACS; the password, or a token instead of both, comes from the environment."""
    pacs_modalities: tuple[str, ...] = _option(("MR", "CT"), _modalities)
    """Modalities whose series are cases."""
    pacs_search: tuple[tuple[str, str], ...] = _option((), _search)
    """Further QIDO-RS conditions, as in `StudyDescription=RESEARCH&BodyPartExamined=HEART`."""
    pacs_ca_file: str = _option("", str)
    """Certificates (PEM) that vouch for the PACS; empty: those that the system trusts."""
    pacs_client_certificate: str = _option("", str)
    """Our own certificate (PEM), where the PACS asks for one."""
    pacs_client_key: str = _option("", str)
    """Its key (PEM), where it is in a file of its own."""
    pacs_cache_gib: float = _option(20.0, _number(float, 0.001))
    """Room for series on this disk, in GiB; labeled cases stay beyond it."""
    pacs_poll_s: float = _option(10.0, _number(float, 0.1))
    """Seconds between two looks at what the PACS has."""
    pacs_push: bool = _option(False, _boolean)
    """Store every segmentation and its map in the PACS, also when the request does not ask for it."""
    pacs_seg_form: str = _option("BINARY", _form)
    """Form of DICOM SEGs: BINARY, or LABELMAP, which few viewers read yet."""

    @classmethod
    def from_conf(cls, conf: Mapping[str, Any] | None) -> AppSettings:
        """Parse the host's strings.

        Raises:
            ValueError: For an unknown key or an unacceptable value, naming what is allowed.
        """
        options = {option.name: option for option in dataclasses.fields(cls)}
        given = {key: value for key, value in (conf or {}).items() if key not in _HOST_KEYS}
        unknown = sorted(set(given) - set(options))
        if unknown:
            raise ValueError(f"Unknown --conf key {', '.join(unknown)}; valid keys: {', '.join(options)}.")
        values = {}
        for key, text in given.items():
            try:
                values[key] = options[key].metadata["parse"](str(text))
            except ValueError as error:
                raise ValueError(f"--conf {key} is {str(text)!r}; {error}.") from None
        return cls(**values)

    @property
    def labels_map(self) -> dict[str, int]:
        """`{name: value}`, values from 1."""
        return {name: index + 1 for index, name in enumerate(self.labels)}

    @property
    def any_single_name(self) -> bool:
        """Whether the one segment of a label may carry any name: no class was named for the project."""
        return self.labels == (DEFAULT_LABEL,)
