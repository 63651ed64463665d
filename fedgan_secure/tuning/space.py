"""What a search may vary: keys of federation.toml, each with choices or a range."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = int | float
KEYS: Mapping[str, type[int] | type[float]] = {
    "privacy.noise_multiplier": float,
    "privacy.epsilon": float,
    "privacy.l2_clip_norm": float,
    "privacy.sampling_probability": float,
    "federation.rounds": int,
    "federation.steps_per_round": int,
    "training.steps_per_generator_step": int,
    "training.discriminator_learning_rate": float,
    "training.generator_learning_rate": float,
    "training.latent_dim": int,
}
"""The keys that may be searched: noise, clip, batch, steps, ratio of discriminator to generator steps, rates."""
MOST_SETTINGS = 2_000


class Range(BaseModel):
    """All numbers from `low` to `high`, on a logarithmic scale with `log`, on a grid from `low` on with `step`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float
    log: bool = False
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, found {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a logarithmic range starts above 0 and has no step")
        return self


Choices = tuple[Value, ...]
Space = Mapping[str, Choices | Range]


def parse(tables: Mapping[str, Any]) -> dict[str, Choices | Range]:
    """The space that the tables below [space] describe, in the order of KEYS.

    Raises:
        ValueError: an unknown key, or a value that is neither a list of numbers nor a table with low and high.
    """
    found: dict[str, Choices | Range] = {}
    for dotted, value in _flat(tables, ""):
        if dotted not in KEYS:
            raise ValueError(f"{dotted} cannot be searched; expected one of {', '.join(KEYS)}")
        kind = KEYS[dotted]
        if isinstance(value, Mapping):
            one = Range.model_validate(value)
            if kind is int and any(number != int(number) for number in (one.low, one.high, one.step or 1)):
                raise ValueError(f"{dotted}: expected whole numbers for low, high and step")
            found[dotted] = one
            continue
        numbers = value if isinstance(value, list | tuple) else [value]
        if not numbers or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise ValueError(f"{dotted}: expected a list of numbers, or a table with low and high")
        if any(not math.isfinite(n) or (kind is int and n != int(n)) for n in numbers):
            raise ValueError(f"{dotted}: expected {'whole' if kind is int else 'finite'} numbers")
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"{dotted}: a number is listed twice")
        found[dotted] = tuple(kind(n) for n in numbers)
    if "privacy.epsilon" in found and "privacy.noise_multiplier" in found:
        raise ValueError("privacy.epsilon and privacy.noise_multiplier are both searched; the one decides the other")
    return {key: found[key] for key in KEYS if key in found}


def _flat(tables: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and dotted not in KEYS and "low" not in value:
            yield from _flat(value, f"{dotted}.")
        else:
            yield dotted, value


def is_finite(space: Space) -> bool:
    """Whether every key has choices, so that all settings can be listed."""
    return all(not isinstance(values, Range) for values in space.values())


def product(space: Space) -> list[dict[str, Value]]:
    """Every setting of a finite space, in order. Raises ValueError for a range, or more than MOST_SETTINGS."""
    size = 1
    for key, values in space.items():
        if isinstance(values, Range):
            raise ValueError(f"{key} has a range, but choices are expected: not every setting can be listed")
        size *= len(values)
    if size > MOST_SETTINGS:
        raise ValueError(f"there are {size} settings, expected {MOST_SETTINGS} at most: leave some choices out")
    lists = [values for values in space.values() if not isinstance(values, Range)]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def draws(space: Space, count: int, seed: int) -> list[dict[str, Value]]:
    """`count` settings, each drawn independently and uniformly (on the range's own scale) from the space."""
    source = np.random.Generator(np.random.Philox(seed))
    return [{key: _draw(key, values, source) for key, values in space.items()} for _ in range(count)]


def _draw(key: str, values: Choices | Range, source: np.random.Generator) -> Value:
    if not isinstance(values, Range):
        return values[int(source.integers(len(values)))]
    kind = KEYS[key]
    if values.step is not None or (kind is int and not values.log):
        step = values.step or 1
        index = int(source.integers(math.floor((values.high - values.low) / step + 1e-9) + 1))
        return kind(values.low + index * step)
    if values.log:
        number = math.exp(source.uniform(math.log(values.low), math.log(values.high)))
    else:
        number = source.uniform(values.low, values.high)
    return round(number) if kind is int else float(f"{number:.6g}")


def distributions(space: Space) -> dict[str, Any]:
    """The space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def of(key: str, values: Choices | Range) -> Any:
        if not isinstance(values, Range):
            return CategoricalDistribution(list(values))
        if KEYS[key] is int:
            return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
        return FloatDistribution(values.low, values.high, log=values.log, step=values.step)

    return {key: of(key, values) for key, values in space.items()}


Method = Literal["grid", "random", "bayes"]
