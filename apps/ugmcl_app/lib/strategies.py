"""strategies: which case the expert should label next: `most_uncertain` (the default), `random`, `first`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from monailabel.interfaces.tasks.strategy import Strategy

from .datastore import FolderDatastore
from .scores import ScoreBoard

DEFAULT_STRATEGY = "most_uncertain"


class UnlabeledStrategy(Strategy):  # type: ignore[misc]
    """Offers unlabeled cases in its order and takes the first that can be served."""

    def __init__(self, description: str, scores: ScoreBoard) -> None:
        super().__init__(description)
        self._scores = scores

    @property
    @abstractmethod
    def order(self) -> str:
        """As in `FolderDatastore.unlabeled_in_order`."""

    def __call__(self, request: dict[str, Any], datastore: FolderDatastore) -> dict[str, Any]:
        """Choose a case.

        Returns:
            `id`, and the newest `score` in [0, 1] (higher = less sure) with the `model_version` that gave it,
            both null before a model has scored it; empty when every case has a final label.
        """
        for image_id in datastore.unlabeled_in_order(self.order):
            # The first time a scan is served, all of it is read: an unusable one is set aside, the next is
            # tried.
            if datastore.is_usable(image_id):
                score = self._scores.get(image_id)
                return {
                    "id": image_id,
                    "score": score.score if score else None,
                    "model_version": score.model_version if score else None,
                }
        return {}


class MostUncertain(UnlabeledStrategy):
    """The case that the newest model is least sure of.

    A case that this model has not scored yet counts with its newest older score; one without any score comes
    after all others. Before a first model no case has a score, and the order is that of the ids, as in
    `First`.
    """

    def __init__(self, scores: ScoreBoard) -> None:
        super().__init__("The case the current model is least sure of; by name before a first model", scores)

    order = "rank"


class RandomCase(UnlabeledStrategy):
    """Any unlabeled case with equal chance."""

    def __init__(self, scores: ScoreBoard) -> None:
        super().__init__("A random case", scores)

    order = "random"


class First(UnlabeledStrategy):
    """The first unlabeled case by id."""

    def __init__(self, scores: ScoreBoard) -> None:
        super().__init__("The first case by name", scores)

    order = "id"


def make_strategies(scores: ScoreBoard) -> dict[str, UnlabeledStrategy]:
    """All strategies by the name in `POST /activelearning/{name}`, the default first."""
    return {DEFAULT_STRATEGY: MostUncertain(scores), "random": RandomCase(scores), "first": First(scores)}
