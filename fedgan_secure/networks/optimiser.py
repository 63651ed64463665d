"""Adam on one flat vector (Kingma and Ba 2015), its state two vectors and a counter: easy to keep, move and resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf


@dataclass
class AdamState:
    """First and second moments, float32[size], and the number of updates made."""

    first: np.ndarray
    second: np.ndarray
    count: int

    @classmethod
    def fresh(cls, size: int) -> AdamState:
        """The state before the first update."""
        return cls(np.zeros(size, np.float32), np.zeros(size, np.float32), 0)


class FlatAdam:
    """Adam for the variables of one network; gradient, moments and state come as flat vectors in their order."""

    def __init__(self, variables: Sequence[tf.Variable], beta1: float, beta2: float, epsilon: float = 1e-8) -> None:
        """Args: variables: updated in place; beta1, beta2, epsilon: Adam's constants."""
        self.variables = list(variables)
        self.sizes = [int(np.prod(value.shape)) for value in self.variables]
        self.size = sum(self.sizes)
        self._first, self._second = (
            [tf.Variable(tf.zeros(value.shape), trainable=False) for value in self.variables] for _ in range(2)
        )
        self._count = tf.Variable(0.0, trainable=False)
        self._constants = (beta1, beta2, epsilon)

    def apply(self, gradient: Any, learning_rate: Any) -> None:
        """Update the variables, each and its moments in one pass.

        Args: gradient: float32[size]; learning_rate: float32 scalar.
        """
        beta1, beta2, epsilon = self._constants
        count = self._count.assign_add(1.0)
        powers = tf.pow(beta1, count), tf.pow(beta2, count)
        parts = tf.split(gradient, self.sizes)
        for value, first, second, part in zip(self.variables, self._first, self._second, parts, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=value.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=learning_rate,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                grad=tf.reshape(part, value.shape),
            )

    def load(self, state: AdamState) -> None:
        """Continue from a state."""
        for moments, flat in ((self._first, state.first), (self._second, state.second)):
            for moment, part in zip(moments, np.split(flat, np.cumsum(self.sizes)[:-1]), strict=True):
                moment.assign(part.reshape(moment.shape))
        self._count.assign(float(state.count))

    def state(self) -> AdamState:
        """The state now."""
        first, second = (
            np.concatenate([moment.numpy().ravel() for moment in moments]) for moments in (self._first, self._second)
        )
        return AdamState(first, second, int(self._count.numpy()))
