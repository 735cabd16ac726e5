"""The report's tables in Markdown, each row with its seeds, commit and the machine it ran on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.evaluation.case_maps import DISTANCE
from server.evaluation.csv_files import Row
from server.evaluation.naming import measure_name, method_name
from server.evaluation.summary import (
    Compared,
    Evaluated,
    MethodFigures,
    Spread,
    distinct,
    full_supervision,
    gap_closed,
)
from server.evaluation.uncertainty_summary import UncertaintyFigures


class Machines:
    """Letters for devices with their versions, so that a row can name a long one in a word."""

    def __init__(self) -> None:
        self._letters: dict[tuple[str, str], str] = {}

    def letter(self, device: str, versions: str) -> str:
        """The letter of a device with these versions; a new one where it is new."""
        number = len(self._letters)
        name = chr(ord("A") + number) if number < 26 else f"M{number + 1}"
        return self._letters.setdefault((device, versions), name)

    def legend(self) -> str:
        """What the letters stand for; empty where none was given."""
        return "\n".join(
            f"- {name}: {device or 'device not recorded'}; {versions or 'versions not recorded'}"
            for (device, versions), name in self._letters.items()
        )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    """A Markdown table, numbers to the right."""
    marks = ["---" if column < numbers_from else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, marks, *rows))


def number(value: float | None, digits: int, empty: str = "-") -> str:
    """With that many digits after the point."""
    return empty if value is None else f"{value:.{digits}f}"


def with_spread(figure: Spread, digits: int) -> str:
    """Mean ± standard deviation over seeds."""
    return number(figure.mean, digits) + ("" if figure.std is None else f" ± {figure.std:.{digits}f}")


def p_value(value: float | None) -> str:
    """Three digits; below 0.001 only that."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def short_commits(runs: Sequence[Row]) -> str:
    """The commits of runs in seven digits, each once; a dirty checkout stays marked."""
    commits = [str(commit) for commit in distinct(runs, "commit")]
    short = [commit[:7] + ("-dirty" if commit.endswith("-dirty") else "") for commit in commits]
    return ", ".join(dict.fromkeys(short)) or "-"


def origin(runs: Sequence[Row], machines: Machines) -> list[str]:
    """Steps, seeds, commit and machine of the runs of one row."""
    letters = {machines.letter(str(run["device"]), str(run["versions"])) for run in runs}
    steps = sorted({int(run["steps"]) for run in runs})
    return [
        str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}",
        ", ".join(str(run["seed"]) for run in runs),
        short_commits(runs),
        ", ".join(sorted(letters)),
    ]


def accuracy_table(
    evaluated: Evaluated,
    data_set: str,
    labels: int,
    figures: Sequence[MethodFigures],
    machines: Machines,
    names: Mapping[str, str],
) -> str:
    """Dice, Jaccard, ASD and 95HD of the method's model, without and with largest component.

    Args:
        evaluated: All rows.
        data_set: Its name.
        labels: Number of labels.
        figures: The rows to show.
        machines: Gives letters to devices.
        names: What a method is called in this table where it is not its own name.
    """
    kept = {one.method: one.metrics for one in evaluated.figures(data_set, labels, component=1)}
    full = full_supervision(evaluated, data_set)
    gaps = gap_closed(figures, full[1] if full and full[0] != labels else None)
    header = ["method", "Dice", "Jaccard", "ASD voxel", "95HD voxel", "ASSD mm", "95HD mm", "failed",
              "Dice, LC", "95HD voxel, LC", "gap closed", "steps", "seeds", "commit", "on"]  # fmt: skip
    rows = []
    for one in figures:
        mean, component = one.metrics, kept[one.method]
        rows.append([
            names.get(one.method, method_name(one.method)),
            with_spread(mean["dice"], 4), number(mean["jaccard"].mean, 4),
            number(mean["asd_voxel"].mean, 2), with_spread(mean["hd95_voxel"], 2),
            number(mean["assd_mm"].mean, 2), number(mean["hd95_mm"].mean, 2),
            f"{mean['failed'].mean:g}", number(component["dice"].mean, 4),
            number(component["hd95_voxel"].mean, 2),
            f"{gaps[one.method]:.0%}" if one.method in gaps else "-",
            *origin(evaluated.runs(data_set, labels, one.method), machines),
        ])  # fmt: skip
    return table(header, rows)


def role_table(evaluated: Evaluated, data_set: str, labels: int) -> str:
    """Student beside teacher, last checkpoints; empty where no method has a teacher."""
    by_role = {
        role: {one.method: one.metrics for one in evaluated.figures(data_set, labels, role=role)}
        for role in ("student", "teacher")
    }
    rows = []
    for name in by_role["student"]:
        if name in by_role["teacher"]:
            found = [by_role[role][name] for role in ("student", "teacher")]
            figures = [(with_spread(one["dice"], 4), with_spread(one["hd95_voxel"], 2)) for one in found]
            rows.append([method_name(name), *(cell for pair in figures for cell in pair)])
    header = ["method", "student Dice", "student 95HD voxel", "teacher Dice", "teacher 95HD voxel"]
    return table(header, rows) if rows else ""


def class_table(evaluated: Evaluated, data_set: str, labels: int) -> str:
    """Dice and 95HD of each class; empty where there is one only."""
    classes = evaluated.classes(data_set)
    if not classes:
        return ""
    found: dict[str, dict[str, MethodFigures]] = {
        klass: {one.method: one for one in evaluated.figures(data_set, labels, klass=klass)}
        for klass in classes
    }
    rows = [
        [method_name(name), *(
            cell for klass in classes
            for cell in (with_spread(found[klass][name].metrics["dice"], 4),
                         with_spread(found[klass][name].metrics["hd95_mm"], 2))
        )]
        for name in found[classes[0]]
    ]  # fmt: skip
    return table(["method", *(f"{k} {unit}" for k in classes for unit in ("Dice", "95HD mm"))], rows)


def comparison_table(compared: Sequence[Compared], names: Mapping[str, str]) -> str:
    """Every method beside the reference; a reason takes the place of figures that could not be had.

    Args:
        compared: Rows.
        names: What a method is called in this table where it is not its own name.
    """
    header = [
        "method",
        "cases",
        "difference",
        "95 % interval",
        "t-test p",
        "Wilcoxon p",
        "d_z",
        "rank-biserial",
    ]
    rows = []
    for one in compared:
        result = one.result
        interval = (
            "-" if result.interval is None else f"{result.interval[0]:+.4f} to {result.interval[1]:+.4f}"
        )
        difference = "-" if result.mean_difference is None else f"{result.mean_difference:+.4f}"
        name = names.get(one.method, method_name(one.method))
        name += f" ({result.reason})" if result.reason else ""
        rows.append([
            name, str(result.n), difference, interval, p_value(one.t_test_holm), p_value(one.wilcoxon_holm),
            number(result.cohens_dz, 2), number(result.rank_biserial, 2),
        ])  # fmt: skip
    return table(header, rows)


def measure_table(judged: UncertaintyFigures) -> str:
    """Every measure beside the distance map, on the test cases."""
    header = ["measure", "AUROC band", "AUPR band", "ECE band", "risk-coverage area",
              "AUROC volume", "ECE volume", "AUROC band, ranking cases"]  # fmt: skip
    columns = ("auroc_band", "aupr_band", "ece_band", "risk_coverage_area_band", "auroc_volume", "ece_volume")
    rows = []
    for one in judged.measures:
        if not one.test:
            continue
        name = measure_name(one.measure, one.scaling)
        if one.measure == judged.best_measure:
            name = f"**{name}**"
        elif one.measure == DISTANCE and one.scaling == "none":
            name = f"*{name}* exp(-d / 1.5)"
        cells = [number(one.test.get(column), 4 if "area" in column else 3) for column in columns]
        rows.append([name, *cells, number(one.ranking.get("auroc_band"), 3)])
    return table(header, rows)


SCORES_SHOWN = 8


def score_table(judged: UncertaintyFigures) -> str:
    """The scores that rank the ranking cases best, with what they do on the test cases."""
    rows = [
        [f"**`{one.score}`**" if one.score == judged.best_score else f"`{one.score}`",
         number(one.ranking, 2), number(one.test, 2)]
        for one in judged.scores[:SCORES_SHOWN]
    ]  # fmt: skip
    return table(["score", "ranking cases", "test cases"], rows)
