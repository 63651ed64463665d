"""Choose the family that a policy names."""

from __future__ import annotations

from fedgan_secure.errors import InputError
from fedgan_secure.federation.families.dcgan_family import DcganFamily
from fedgan_secure.federation.families.family import Family
from fedgan_secure.models import FAMILY as MOMENTS
from fedgan_secure.models import ModelError
from fedgan_secure.moments import AnyStart, MomentsStart
from fedgan_secure.policy import FederationPolicy, spec_of


def family_of(policy: FederationPolicy, start: AnyStart | None) -> Family:
    """Return the family that a policy names.

    Args:
        policy: the federation's.
        start: the public start that it names, or None where it names none.

    Raises:
        ModelError: the start is not the policy's.
    """
    if policy.start is None:
        return DcganFamily(policy)
    if policy.model.get("family") == MOMENTS:
        from fedgan_secure.federation.families.moments_family import MomentsFamily

        return MomentsFamily(policy, start)
    from fedgan_secure.federation.families.adapted import AdaptedFamily

    if isinstance(start, MomentsStart):
        raise ModelError("the run adapts a public start, and was given that of moments")
    return AdaptedFamily(policy, start)


def refuse_other_dimension(policy: FederationPolicy, family: Family) -> None:
    """Refuse sums of another length than what is trained where noise is shared."""
    shared = policy.distributed
    if shared is None or (policy.release is not None and policy.rounds == 1):
        return
    trained = family.update_size if policy.start is not None else _discriminator_size(policy)
    if shared.shares.dimension != trained:
        raise InputError(
            f"the policy's sums have {shared.shares.dimension} coordinates, its discriminator has {trained}",
            hint="use the version of fedgan-secure that made this run",
        )


def _discriminator_size(policy: FederationPolicy) -> int:
    from fedgan_secure.networks import VectorLayout

    layout = VectorLayout.of(spec_of(policy))
    return layout.size - layout.generator_size
