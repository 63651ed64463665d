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
    """Adam for the variables of one network; the gradient comes as one flat vector in their order."""

    def __init__(self, variables: Sequence[tf.Variable], beta1: float, beta2: float, epsilon: float = 1e-8) -> None:
        """Args: variables: updated in place; beta1, beta2, epsilon: Adam's constants."""
        self.variables = list(variables)
        self.sizes = [int(np.prod(value.shape)) for value in self.variables]
        self.size = sum(self.sizes)
        self._first = tf.Variable(tf.zeros([self.size]), trainable=False)
        self._second = tf.Variable(tf.zeros([self.size]), trainable=False)
        self._count = tf.Variable(0.0, trainable=False)
        self._constants = (beta1, beta2, epsilon)

    def apply(self, gradient: Any, learning_rate: Any) -> None:
        """Update the variables. Args: gradient: float32[size]; learning_rate: float32 scalar."""
        beta1, beta2, epsilon = self._constants
        count = self._count.assign_add(1.0)
        first = self._first.assign(beta1 * self._first + (1.0 - beta1) * gradient)
        second = self._second.assign(beta2 * self._second + (1.0 - beta2) * tf.square(gradient))
        rate = learning_rate * tf.sqrt(1.0 - tf.pow(beta2, count)) / (1.0 - tf.pow(beta1, count))
        change = rate * first / (tf.sqrt(second) + epsilon)
        for value, part in zip(self.variables, tf.split(change, self.sizes), strict=True):
            value.assign_sub(tf.reshape(part, value.shape))

    def load(self, state: AdamState) -> None:
        """Continue from a state."""
        self._first.assign(state.first)
        self._second.assign(state.second)
        self._count.assign(float(state.count))

    def state(self) -> AdamState:
        """The state now."""
        return AdamState(self._first.numpy(), self._second.numpy(), int(self._count.numpy()))
