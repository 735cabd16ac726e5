"""`experiment report`: from CSV files to docs/results.md's generated part, its pictures and results.json."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from server.evaluation.accuracy_pictures import case_boxes, learning_curve
from server.evaluation.atomic import replacing
from server.evaluation.csv_files import COLUMNS, read_rows
from server.evaluation.naming import ABLATION_ENDS, NOTES, data_set_name, measure_name, method_name
from server.evaluation.results_file import read_gpu, results, to_json
from server.evaluation.summary import Evaluated, ablation_rows, comparisons, main_methods
from server.evaluation.tables import (
    Machines,
    accuracy_table,
    class_table,
    comparison_table,
    measure_table,
    role_table,
    score_table,
    short_commits,
)
from server.evaluation.uncertainty_pictures import calibration_curves, risk_coverage_curves
from server.evaluation.uncertainty_summary import UncertaintyFigures, uncertainty_figures

BEGIN, END = "<!-- generated: experiment -->", "<!-- end generated -->"
PICTURES = Path("images/results")
INTRODUCTION = """\
*This part is written by `ugmcl-assist experiment report` from the CSV files of `experiment evaluate`; edits
here are lost.*

Last checkpoint, never one chosen on test cases; the model of a method with a teacher is its teacher unless
the table says otherwise. Means over the test cases, then over seeds; ± is the sample standard deviation over
seeds. All classes count as one foreground. ASD is one-sided (prediction to reference) as medpy computes it
and the papers print it, ASSD is symmetric; 95HD pools both directions. An empty prediction is a failure:
Dice 0, its distance the diagonal of the volume. LC: only the largest component kept. Gap closed: share of the
Dice from supervised with these labels to supervised with all that the method makes up.

p-values are two-sided, over test cases (mean over seeds), Holm-corrected for the methods of the table; the
interval is a bootstrap's (9999 resamples, seed 0); d_z is the mean difference over its standard deviation."""
BAND = """\
The band holds the voxels within 3 voxels of the true or the predicted boundary; over the whole volume easy
background flatters every map. The distance map exp(-d / 1.5), d in voxels to the predicted boundary, knows
nothing of the model's doubt: a measure is worth its cost where it beats it. Temperature (of 1 - max p) and
Platt scaling (of the others, the distance map too) were fitted in the band of the ranking cases and change
the ECE only."""


def report(csv_folder: Path, docs: Path, references: Sequence[str]) -> list[Path]:
    """Write the generated part of results.md, its pictures, and results.json.

    Args:
        csv_folder: Written by `evaluate`.
        docs: Folder that holds results.md.
        references: Methods that the others are compared with, each in a table of its own.

    Returns:
        The files written.

    Raises:
        ValueError: If a CSV is missing or damaged, or results.md has one of the two markers only.
    """
    evaluated = Evaluated({name: read_rows(csv_folder, name) for name in COLUMNS})
    if not evaluated.rows["runs"]:
        raise ValueError(f"{csv_folder / 'runs.csv'} names no run; run `experiment evaluate` first.")
    page = docs / "results.md"
    before = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    split_at_markers(before, page)  # refuse before anything is written
    found = {name: uncertainty_figures(evaluated, name) for name in evaluated.data_sets()}
    judged = {name: figures for name, figures in found.items() if figures is not None and figures.measures}
    content = to_json(results(evaluated, judged, read_gpu(csv_folder)))
    pictures: list[Path] = []
    machines = Machines()
    parts = [INTRODUCTION]
    for name in evaluated.data_sets():
        parts += section(evaluated, name, judged.get(name), csv_folder, docs, references, machines, pictures)
    parts += ["### Machines\n", machines.legend()]
    replace_text(page, with_generated(before, "\n\n".join(part.strip("\n") for part in parts if part), page))
    replace_text(docs / "results.json", content)
    return [page, docs / "results.json", *pictures]


def section(
    evaluated: Evaluated,
    data_set: str,
    judged: UncertaintyFigures | None,
    csv_folder: Path,
    docs: Path,
    references: Sequence[str],
    machines: Machines,
    pictures: list[Path],
) -> list[str]:
    """One data set: pictures and tables of accuracy by label count, then its uncertainty."""
    parts = [f"### {data_set_name(data_set)}", NOTES.get(data_set, "")]
    path = docs / PICTURES / f"learning_curve_{data_set}.png"
    if learning_curve(evaluated, data_set, path):
        parts.append(_shown(path, "Dice over the number of labels", pictures))
    for labels in evaluated.label_counts(data_set):
        parts += _accuracy(evaluated, data_set, labels, references, machines)
        path = docs / PICTURES / f"cases_{data_set}_{labels}.png"
        if case_boxes(evaluated, data_set, labels, path):
            parts.append(_shown(path, f"Dice and 95HD of every evaluated case, {labels} labels", pictures))
    if judged is not None:
        parts += _uncertainty(evaluated, data_set, judged, docs, pictures)
    overlay = csv_folder / f"worst_{data_set}.png"
    if overlay.exists():
        path = docs / PICTURES / overlay.name
        copy_file(overlay, path)
        parts += ["#### Worst cases", _shown(path, "The worst test cases with both contours", pictures)]
    return parts


def _accuracy(
    evaluated: Evaluated, data_set: str, labels: int, references: Sequence[str], machines: Machines
) -> list[str]:
    """The tables of one number of labels."""
    figures = evaluated.figures(data_set, labels)
    main, ablation = main_methods(figures), ablation_rows(figures)
    parts = [f"#### {labels} labels", _evaluated_on(evaluated, data_set, labels)]
    if main:
        parts.append(accuracy_table(evaluated, data_set, labels, main, machines, {}))
    parts += _beside(role_table(evaluated, data_set, labels), "Student and teacher:")
    parts += _beside(class_table(evaluated, data_set, labels), "By class:")
    for reference in references:
        compared = comparisons(main, reference)
        if compared:
            parts += [f"Dice compared with {method_name(reference)}:", comparison_table(compared, {})]
    if ablation:
        parts += ["The terms of the loss, one after another (the paper's Table 1):",
                  accuracy_table(evaluated, data_set, labels, ablation, machines, ABLATION_ENDS)]  # fmt: skip
        compared = comparisons(ablation, "supervised")
        if compared:
            parts += ["Dice compared with its row (1):", comparison_table(compared, ABLATION_ENDS)]
    return parts


def _evaluated_on(evaluated: Evaluated, data_set: str, labels: int) -> str:
    """A warning where the cases were not the test cases."""
    runs = evaluated.runs(data_set, labels)
    held_out = {int(run["test_cases"]) for run in runs if run["evaluated_on"] == "hold_out"}
    if not held_out:
        return ""
    some = "" if all(run["evaluated_on"] == "hold_out" for run in runs) else "Some rows: "
    return f"{some}measured on {max(held_out)} cases held out of the pool, not on test cases."


def _uncertainty(
    evaluated: Evaluated, data_set: str, judged: UncertaintyFigures, docs: Path, pictures: list[Path]
) -> list[str]:
    seeds = ", ".join(str(seed) for seed in judged.seeds)
    commits = short_commits(evaluated.runs(data_set, judged.labels, judged.method))
    who = f"{method_name(judged.method)}, {judged.labels} labels, seeds {seeds}, commit {commits}."
    choice = (
        f"Best on the ranking cases, and so the choice: **{measure_name(judged.best_measure)}**."
        if judged.best_measure
        else "Without ranking cases no measure was chosen and none was scaled."
    )
    parts = ["#### Uncertainty", f"{who} {choice}", BAND, measure_table(judged)]
    for draw, stem, text in (
        (calibration_curves, "calibration", "Calibration inside the band"),
        (risk_coverage_curves, "risk_coverage", "Risk over coverage"),
    ):
        path = docs / PICTURES / f"{stem}_{data_set}.png"
        if draw(evaluated, data_set, judged, path):
            parts.append(_shown(path, text, pictures))
    if judged.scores:
        shown = (
            "Spearman's rank correlation of a case's score with its true Dice (-1 is perfect), mean over\n"
        )
        shown += "seeds. The score is chosen on the ranking cases; all of them are in scores.csv.gz:"
        parts += [shown, score_table(judged)]
    return parts


def _beside(found: str, title: str) -> list[str]:
    return [title, found] if found else []


def _shown(path: Path, text: str, pictures: list[Path]) -> str:
    pictures.append(path)
    return f"![{text}]({(PICTURES / path.name).as_posix()})"


def split_at_markers(
    text: str, page: Path, markers: tuple[str, str] = (BEGIN, END)
) -> tuple[str, str] | None:
    """What stands before and after the generated part; `None` where there is none yet.

    Raises:
        ValueError: If the two markers are not there exactly once, in order.
    """
    begin, end = markers
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        return None
    if counts != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(f"{page} must hold {begin} and then {end}, each once; mend them or remove both.")
    return text[: text.index(begin)], text[text.index(end) + len(end) :]


def with_generated(
    text: str,
    generated: str,
    page: Path,
    markers: tuple[str, str] = (BEGIN, END),
    heading: str = "Experiments",
) -> str:
    """The page with its generated part replaced, or added at its end under a heading."""
    block = f"{markers[0]}\n\n{generated}\n\n{markers[1]}"
    around = split_at_markers(text, page, markers)
    if around is None:
        return f"{text.rstrip()}\n\n## {heading}\n\n{block}\n"
    return f"{around[0]}{block}{around[1]}"


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
