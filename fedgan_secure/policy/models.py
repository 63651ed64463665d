"""The networks and the training that a policy names."""

from __future__ import annotations

from typing import Any

from fedgan_secure.models import AdaptedSpec, ModelError, MomentsSpec
from fedgan_secure.policy.mechanisms import mechanism_fields
from fedgan_secure.policy.policy import FederationPolicy
from fedgan_secure.policy.training import TrainingSettings


def spec_of(policy: FederationPolicy) -> Any:
    """Return the networks that a policy without a public start names."""
    from fedgan_secure.models import read_spec

    spec = read_spec(policy.model)
    if isinstance(spec, AdaptedSpec | MomentsSpec) != (policy.start is not None):
        raise ModelError("policy: the model adapts a public start and the policy names none, or the other way round")
    return spec


def model_of(policy: FederationPolicy) -> Any:
    """The networks that a policy names: a `ModelSpec`, or an `AdaptedSpec` where it adapts a public start."""
    return spec_of(policy)


def training_of(policy: FederationPolicy) -> TrainingSettings:
    """The optimiser's public constants and the mechanism that a policy names."""
    return TrainingSettings.from_json({**policy.training, **mechanism_fields(policy.mechanism)})
