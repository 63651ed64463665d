"""The mechanism of a run that starts from moments: one release, which has all of the budget."""

from __future__ import annotations

from fedgan_secure.errors import InputError
from fedgan_secure.federation.released.release_terms import (
    StartTerms,
    refuse_settings_of_steps,
    refuse_two_noises,
    release_alone,
    release_noise,
    release_policy,
    ring_of_release,
)
from fedgan_secure.models import MomentsSpec
from fedgan_secure.moments import MomentsStart
from fedgan_secure.policy import RunSettings, StartPolicy, moments_recipe, rounds_of

OTHERWISE = "adapt a public start (--start NAME)"
RING_BITS = 64
"""Of so many coordinates, rounding to a grid that fits 32 bits beside thousands of patients would cost noise."""


def moments_terms(
    settings: RunSettings, start: MomentsStart, declared: int, hospitals: int, classes: int
) -> StartTerms:
    """Return the mechanism of a run that starts from moments.

    Raises:
        InputError, BudgetRefused, UnreachableTarget: more than one round, no grid fits, or the budget cannot be met.
    """
    recipe = moments_recipe()
    if (rounds := rounds_of(settings, recipe) + settings.federation.spare_rounds) != 1:
        raise InputError(
            f"--start moments with {rounds} scheduled rounds: such a run is one release, and no round could follow it",
            hint="leave --rounds and --spare-rounds out, or train from a seed: --start none",
        )
    refuse_two_noises(settings, OTHERWISE)
    refuse_settings_of_steps(settings, OTHERWISE)
    layout = start.layout(classes)
    noise = release_noise(settings, recipe, declared, alone=True)
    wide = settings.model_copy(update={"training": settings.training.model_copy(update={"ring_bits": RING_BITS})})
    ring = ring_of_release(wide, recipe, layout, noise, declared, hospitals)
    release = release_policy(ring, layout)
    return StartTerms(
        mechanism=release_alone(settings, recipe, release, declared),
        ring=release.ring,
        release=release,
        model=MomentsSpec(layout.image_size, layout.channels, layout.classes, layout.order).to_json(),
        training={},
        start=StartPolicy(name=start.name, digest=start.digest, statement=start.statement),
        rounds=1,
    )
