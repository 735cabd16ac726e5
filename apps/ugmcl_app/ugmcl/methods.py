"""methods: the method, its rivals and its ablation rows, as changes of one configuration.

A method is its objective and nothing else: which terms the loss has, what they weigh, on which patches they
are asked and from when on, and how the teacher's uncertainty guides them. Network, augmentation,
perturbation, optimizer, other schedules, batch, T and the distance targets come from the configuration that
all methods share, so that a comparison compares objectives. The changes name every value of an objective, so
they hold whatever configuration they start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .config import Config, LossConfig, TrainConfig, replace

LOSS_FIELDS = (
    "sdm_weight",
    "beta",
    "intra_task_weight",
    "cross_task_weight",
    "entropy_weight",
    "mix_weight",
    "uncertainty_weighting",
    "cross_task_guidance",
    "supervised_fraction",
)
TRAIN_FIELDS = ("method", "mc_stream", "copy_paste")
"""Values of `LossConfig` and `TrainConfig` that make up an objective."""

Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        about: What it asks of the network, in a line.
        source: Who published it, and where its weights come from.
        changes: Section to value names to values.
        same_as: Name of the method that this one equals in every value, or empty.
    """

    about: str
    source: str
    changes: Changes
    same_as: str = ""


def _objective(train: dict[str, Any] | None = None, **loss: Any) -> Changes:
    """A teacher-less loss of labeled patches alone, changed by `train` and `loss`."""
    plain = {
        "sdm_weight": 0.0,
        "beta": 1.0,
        "intra_task_weight": 0.0,
        "cross_task_weight": 0.0,
        "entropy_weight": 0.0,
        "mix_weight": 0.0,
        "uncertainty_weighting": "none",
        "cross_task_guidance": "published",
        "supervised_fraction": 0.0,
    }
    shared = {"method": "ug_mcl", "mc_stream": "all", "copy_paste": "off"}
    return {"loss": {**plain, **loss}, "train": {**shared, **(train or {})}}


def _defaults() -> Changes:
    """The objective of the default configuration, whatever it is today."""
    loss, train = LossConfig(), TrainConfig()
    return {
        "loss": {name: getattr(loss, name) for name in LOSS_FIELDS},
        "train": {name: getattr(train, name) for name in TRAIN_FIELDS},
    }


_UNLABELED: dict[str, Any] = {"mc_stream": "unlabeled"}
_INTRA: dict[str, Any] = {"intra_task_weight": 0.1, "uncertainty_weighting": "mask"}
_CROSS: dict[str, Any] = {"cross_task_weight": 0.1}
_SUPERVISED = _objective({"method": "supervised"})
_UG_MCL = _objective(sdm_weight=1.0, beta=0.75, **_INTRA, **_CROSS)
_TABLE_1 = "UG-MCL, Table 1"

METHODS: dict[str, Method] = {
    "supervised": Method(
        "labeled scans only: cross-entropy and Dice of the segmentation",
        "UG-MCL, Tables 1 and 3",
        _SUPERVISED,
    ),
    "mean_teacher": Method(
        "the student follows the teacher's one pass without dropout, at every voxel",
        "Tarvainen & Valpola 2017; weight 0.1 on unlabeled patches as in UA-MT's code",
        _objective(_UNLABELED, intra_task_weight=0.1),
    ),
    "ua_mt": Method(
        "the student follows the teacher's dropout passes where their entropy is under a rising threshold",
        "Yu et al. 2019; weight 0.1 on unlabeled patches as in its code",
        _objective(_UNLABELED, **_INTRA),
    ),
    "dtc": Method(
        "no teacher: segmentation and distance head agree with each other on all patches",
        "Luo et al. 2021; distance regression 0.3 and agreement 1.0 as in its code",
        _objective(sdm_weight=0.3, cross_task_weight=1.0),
    ),
    "entropy_minimization": Method(
        "no teacher: the student's own entropy is made small on all patches",
        "Grandvalet & Bengio 2005, Vu et al. 2019; weight 0.1 as in SSL4MIS",
        _objective(entropy_weight=0.1),
    ),
    "ug_mcl": Method(
        "both tasks follow the teacher where it is certain, and agree with each other everywhere",
        "UG-MCL, Eq. 2 to 7: beta 0.75, both weights 0.1, threshold from 3/4 of the maximum, all patches",
        _UG_MCL,
    ),
    "ug_mcl_plus": Method(
        "the default of this program: labels alone first, then UG-MCL with soft weights and exchanged boxes",
        "measured, see docs/results.md",
        _defaults(),
    ),
    "ablation_seg": Method("row 1: L_seg", _TABLE_1, _SUPERVISED, same_as="supervised"),
    "ablation_seg_dis": Method("row 2: L_seg + L_dis", _TABLE_1, _objective(sdm_weight=1.0)),
    "ablation_seg_itc": Method(
        "row 3: L_seg + L_itc, of the segmentation alone", _TABLE_1, _objective(**_INTRA)
    ),
    "ablation_seg_dis_itc": Method(
        "row 4: L_seg + L_dis + L_itc", _TABLE_1, _objective(sdm_weight=1.0, beta=0.75, **_INTRA)
    ),
    "ablation_seg_dis_ctc": Method(
        "row 5: L_seg + L_dis + L_ctc", _TABLE_1, _objective(sdm_weight=1.0, **_CROSS)
    ),
    "ablation_seg_dis_itc_ctc": Method("row 6: all terms", _TABLE_1, _UG_MCL, same_as="ug_mcl"),
}


def method_config(name: str, shared: Config) -> Config:
    """The configuration of a method: `shared` with the method's objective.

    Raises:
        ValueError: For an unknown method, naming those there are.
    """
    return replace(shared, **METHODS[known_methods([name])[0]].changes)


def known_methods(names: Sequence[str]) -> list[str]:
    """The names, each once and in order; one that equals another method becomes that one.

    Raises:
        ValueError: For an unknown method, naming those there are.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"There is no method {name!r}; choose from: {', '.join(METHODS)}.")
    return list(dict.fromkeys(METHODS[name].same_as or name for name in names))


def list_methods() -> str:
    """All methods as text, two lines each."""
    lines = []
    for name, method in METHODS.items():
        same = f" (the same as {method.same_as})" if method.same_as else ""
        lines.append(f"{name:26}{method.about}{same}\n{'':26}{method.source}")
    return "\n".join(lines)
