"""A hospital's own trainer, watched: an adversary is shown what every step releases, and knows all but the canaries.

`Watching` goes before a trainer in the list of bases and changes nothing of what that does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Listener(Protocol):
    """An adversary."""

    def see(self, released: np.ndarray) -> None:
        """Look at one step: float32[d], the noisy sum less what everybody but the canaries contributed."""


class Watching:
    """Mix this into a trainer whose step calls one compiled function for its noisy gradient.

    That function is called with the inputs, the labels, the weights of their rows, the noise, and whatever else; its
    first result is the noisy gradient, divided by the public batch size.

    Attributes:
        gradient_function: its name among the compiled functions.
        listener: the adversary; made before the first step.
    """

    settings: Any
    gradient_function = ""

    def watch(self, first_canary: int, listener_of: Callable[[Any], Listener]) -> None:
        """Begin to watch.

        Args:
            first_canary: the row of the data from which on all are canaries.
            listener_of: makes the adversary from the compiled functions.
        """
        self._first_canary, self._listener_of = first_canary, listener_of
        self.listener: Any = None
        self._known = np.zeros((0, 0), np.float32)

    def _batch(self) -> Any:
        batch = super()._batch()  # type: ignore[misc]
        self._known = batch.weights.copy()  # without the canaries: what the adversary knows
        self._known[: batch.size][(batch.images >= self._first_canary).any(axis=1)] = 0.0
        return batch

    def _step(self, compiled: Any, *rest: Any) -> Any:
        if self.listener is None:
            self.listener = self._listener_of(compiled)
        return super()._step(_Tap(compiled, self.gradient_function, self._release), *rest)  # type: ignore[misc]

    def _release(self, compiled: Any, given: tuple[Any, ...], gradient: Any) -> None:
        inputs, labels, _, noise, *rest = given
        function = getattr(compiled, self.gradient_function)
        known = function(inputs, labels, self._known, np.zeros_like(noise), *rest)[0]
        self.listener.see((gradient.numpy() - known.numpy()) * np.float32(self.settings.expected_batch_size))


class _Tap:
    """Compiled functions, with an ear on the gradient that a step releases."""

    def __init__(self, compiled: Any, name: str, heard: Callable[[Any, tuple[Any, ...], Any], None]) -> None:
        self._compiled, self._name, self._heard = compiled, name, heard

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._compiled, name)
        if name != self._name:
            return function

        def listening(*given: Any) -> Any:
            made = function(*given)
            self._heard(self._compiled, given, made[0])
            return made

        return listening
