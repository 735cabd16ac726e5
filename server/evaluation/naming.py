"""Names and order of methods, measures and data sets as the report shows them."""

from __future__ import annotations

METHODS = {
    "supervised": "Supervised",
    "mean_teacher": "Mean teacher",
    "ua_mt": "UA-MT",
    "entropy_minimization": "Entropy min.",
    "dtc": "DTC",
    "ug_mcl": "UG-MCL",
    "ug_mcl_plus": "UG-MCL+",
    "ablation_seg": "(1) L_seg",
    "ablation_seg_dis": "(2) L_seg + L_dis",
    "ablation_seg_itc": "(3) L_seg + L_itc",
    "ablation_seg_dis_itc": "(4) L_seg + L_dis + L_itc",
    "ablation_seg_dis_ctc": "(5) L_seg + L_dis + L_ctc",
    "ablation_seg_dis_itc_ctc": "(6) all four",
}
"""In the order of the paper's tables, ours last; a method that is not named here shows its own name."""
ABLATION = "ablation_"
"""Rows of the paper's Table 1, shown in a table of their own."""
ABLATION_ENDS = {"supervised": "(1) L_seg", "ug_mcl": "(6) all four"}
"""The rows of that table which are methods of the main table too."""
MEASURES = {
    "predictive_entropy": "predictive entropy",
    "mutual_information": "mutual information",
    "head_disagreement": "head disagreement",
    "teacher_student_disagreement": "teacher-student disagreement",
    "error_probability": "1 - max p",
    "mc_error_probability": "1 - max mean p",
    "distance": "distance map",
}
SCALINGS = {"none": "", "temperature": ", temperature", "platt": ", Platt-scaled"}
DATA_SETS = {"hippocampus": "Hippocampus", "left_atrium": "Left atrium"}
HEADLINE_LABELS = {"hippocampus": 10, "left_atrium": 16}
"""The label count whose runs stand for a data set; where it was not run, the one with most methods."""
HEADLINE_METHODS = ("ug_mcl_plus", "ug_mcl")
"""The method whose uncertainty is judged: the first of these that was run."""
NOTES = {
    "left_atrium": "**Estimates**: measured on the last 16 of the 80 training cases (48 unlabeled), not on "
    "the papers' 20 test cases, which are held back.",
}


def method_name(method: str) -> str:
    """As shown; a variant has its suffix in brackets."""
    base, _, variant = method.partition("-")
    return METHODS.get(base, base.replace("_", " ")) + (f" ({variant})" if variant else "")


def method_rank(method: str) -> tuple[int, str]:
    """Sorts methods: the named ones in their order, each before its variants, then the others by name."""
    order, base = list(METHODS), method.partition("-")[0]
    return (order.index(base) if base in METHODS else len(order), method)


def measure_name(measure: str, scaling: str = "none") -> str:
    """As shown."""
    return MEASURES.get(measure, measure.replace("_", " ")) + SCALINGS.get(scaling, f", {scaling}")


def data_set_name(data_set: str) -> str:
    """As shown."""
    return DATA_SETS.get(data_set, data_set.replace("_", " ").capitalize())
