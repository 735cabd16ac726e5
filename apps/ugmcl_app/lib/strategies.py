"""strategies: which case the expert should label next: `most_uncertain` (the default), `random`, `first`."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterable
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

    @abstractmethod
    def order(self, image_ids: list[str]) -> Iterable[str]:
        """The ids, best first."""

    def __call__(self, request: dict[str, Any], datastore: FolderDatastore) -> dict[str, Any]:
        """Choose a case.

        Returns:
            `id`, and the newest `score` in [0, 1] (higher = less sure) with the `model_version` that gave it,
            both null before a model has scored it; empty when every case has a final label.
        """
        for image_id in self.order(sorted(datastore.get_unlabeled_images())):
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

    def order(self, image_ids: list[str]) -> list[str]:
        """By falling score; ties, and cases without a score, by id."""

        def key(image_id: str) -> tuple[float, str]:
            score = self._scores.get(image_id)
            return (-score.score if score else 1.0, image_id)

        return sorted(image_ids, key=key)


class RandomCase(UnlabeledStrategy):
    """Any unlabeled case with equal chance."""

    def __init__(self, scores: ScoreBoard) -> None:
        super().__init__("A random case", scores)

    def order(self, image_ids: list[str]) -> list[str]:
        """Shuffled."""
        return random.sample(image_ids, len(image_ids))


class First(UnlabeledStrategy):
    """The first unlabeled case by id."""

    def __init__(self, scores: ScoreBoard) -> None:
        super().__init__("The first case by name", scores)

    def order(self, image_ids: list[str]) -> list[str]:
        """As given: by id."""
        return image_ids


def make_strategies(scores: ScoreBoard) -> dict[str, UnlabeledStrategy]:
    """All strategies by the name in `POST /activelearning/{name}`, the default first."""
    return {DEFAULT_STRATEGY: MostUncertain(scores), "random": RandomCase(scores), "first": First(scores)}
