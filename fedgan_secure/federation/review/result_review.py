"""How a hospital judges what a whole round publishes: against the model that it itself found the round to lead to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedgan_audits.facts import RoundRecord
from fedgan_secure.errors import InputError
from fedgan_secure.federation.attempt import Attempt
from fedgan_secure.federation.families.family import Family
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.results.models_found import Found, ModelsFound
from fedgan_secure.federation.results.published_files import Published, objections_to_files, objections_to_list


class ResultReview:
    """One hospital's review of results.

    Args:
        models: what the hospital found earlier.
        family: makes the hospital's own family; called where a file has to be compared.
        decay: of the published running average.
    """

    def __init__(self, models: ModelsFound, family: Callable[[], Family], decay: float) -> None:
        self._models, self._family, self._decay = models, family, decay

    def objections(self, record: RoundRecord, published: Published | None, attempt: Attempt | None) -> list[str]:
        """Return what stands against a report's files; empty where they are what the round leads to.

        A hospital that knows no result, since it holds no sum, judges the list of files alone: it has seen the report
        and vouches for no result (`models_found`).

        Args:
            record: of the report.
            published: the files as the hospital was shown them, None where it was shown none.
            attempt: what the hospital saw of its newest round in this process, or None.
        """
        found = objections_to_list(record, published)
        if found or published is None or record.header.status != "complete":
            return found
        try:
            led_to = self._led_to(record, published, attempt)
            if led_to is None:
                return []
            if led_to.model != record.aggregation.model_after:
                return ["the model that the report names is none that this hospital knows its round to lead to"]
            return objections_to_files(self._family(), published, led_to)
        except InputError as error:
            return [str(error)]

    def _led_to(self, record: RoundRecord, published: Published, attempt: Attempt | None) -> Found | None:
        """What this hospital knows a whole round to lead to; None where it holds no sum that says so.

        Where the coordinator's steps lie between the sums that it holds, it believes the model that the report names,
        in the process that took its own steps, and keeps which one that was.
        """
        number = record.header.round
        found = self._models.of(number)
        if found is not None or self._models.received(number) is None:
            return found
        if attempt is None or attempt.parameters.round != number:
            return None
        vector = self._believed(record, published, attempt)
        if vector is None:
            return Found("", None)
        found = Found(
            model_digest(attempt.layout_hash, vector).hex(), self._models.next_average(number, vector, self._decay)
        )
        self._models.keep(number, found)
        return found

    def _believed(self, record: RoundRecord, published: Published, attempt: Attempt) -> np.ndarray | None:
        """The model that the report names, as the coordinator has it; None where it has another one."""
        vector = np.asarray(published.vector, np.float32)
        if model_digest(attempt.layout_hash, vector).hex() != record.aggregation.model_after:
            return None
        return vector if self._family().may_lead_to(record.header.round, attempt.vector, vector) else None
