"""publication: whether a round's candidate goes live, and the sentence that says why."""

from __future__ import annotations

from typing import Any

NO_VALIDATION = "no validation case yet"


def decide(
    candidate: str, metrics: dict[str, Any] | None, margin: float, validation_cases: int, live: str | None
) -> tuple[bool, str]:
    """Compare a candidate with the live model on today's validation cases.

    Args:
        candidate: "student" or "teacher", the better of the two.
        metrics: `student`, `teacher`, `published_before`, each `{"dice" in [0, 1], "hd95_mm"}` or None; None
            before the first validation case.
        margin: How much lower than the live model's Dice the candidate's may be and still go live.
        validation_cases: How many cases the means are over.
        live: The version that `published_before` was measured of.

    Returns:
        Whether to publish, and the reason with its numbers.
    """
    if metrics is None or metrics.get(candidate) is None:
        return True, NO_VALIDATION
    dice = metrics[candidate]["dice"]
    cases = f"{validation_cases} validation case{'' if validation_cases == 1 else 's'}"
    before = metrics.get("published_before")
    if before is None:
        return (
            True,
            f"Published: Dice {dice:.4f} ({candidate}) on {cases}; there was no model to compare with.",
        )
    floor = before["dice"] - margin
    compared = (
        f"Dice {dice:.4f} ({candidate}) against {before['dice']:.4f} of the published model {live} "
        f"on {cases}, margin {margin:g}"
    )
    if dice >= floor:
        return True, f"Published: {compared}."
    return False, f"Not published: {compared}; the published model stays."
