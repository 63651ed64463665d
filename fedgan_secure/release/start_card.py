"""What the card and the statement of a released model say that depends on a public start, in Markdown."""

from __future__ import annotations

from fedgan_audits.accounting import MechanismRecord
from fedgan_secure.models import FAMILY as MOMENTS
from fedgan_secure.models import read_spec
from fedgan_secure.policy import FederationPolicy
from fedgan_secure.release.markdown import plain, table

FROM_START = (
    "Anatomy, sharpness and the shapes of lesions. They are the public start's, whatever the hospitals' patients have; "
    "a finding that the start cannot draw is in no picture."
)
FROM_PATIENTS = (
    "Colour, light and contrast; how often and how strongly lesions show, as far as means and spreads of the start's "
    "features tell; and which picture belongs to which class."
)
NOT_RELEASED = (
    "The release round was not finished, and it is not repeated: colour, light and contrast are the public start's, "
    "too. What its reservation costs is in every figure."
)
NO_DISCRIMINATOR = (
    "There is no `discriminator.keras`: such a run trains none. Its small heads on the start's features are not "
    "published as a file; what they decided is in the generator, as the chance of each picture for each class."
)
FROM_BASIS = (
    "Nothing but the scale of details: a picture is a sum of {order} x {order} cosines, and what is finer is in none."
)
FROM_MOMENTS = (
    "Everything else: the mean of every class, and how its pictures vary around it, as far as a covariance tells. "
    "Pictures are drawn from that Gaussian, so forms that do not vary smoothly around a mean come out blended."
)
NO_MOMENTS = "The release round was not finished, and it is not repeated: the pictures are black."
NOTHING_TRAINED = "There is no `discriminator.keras`: nothing is trained in such a run."
_COLUMNS = ("round", "what hospitals give", "noise multiplier", "clip norm", "chance of a patient", "steps")


def starts_from_moments(policy: FederationPolicy) -> bool:
    """Return whether the run has no trained start and nothing but a release."""
    return policy.model.get("family") == MOMENTS


def origin(policy: FederationPolicy) -> str:
    """Return how the generator was made; it ends the sentence "A generator of ..."."""
    count = len(policy.hospitals)
    if policy.start is None:
        return f"trained by {count} hospitals together by federated averaging under secure aggregation."
    noise = "without noise" if policy.flags.no_privacy else "with noise"
    if starts_from_moments(policy):
        return f"made of what {count} hospitals released together, {noise} and under secure aggregation."
    return (
        f"made of the public start {plain(policy.start.name)} and adapted to what {count} hospitals released together, "
        f"{noise} and under secure aggregation."
    )


def start_section(policy: FederationPolicy, *, released: bool) -> list[str]:
    """Return the section on the start; none without one. Args: released: whether the release round was finished."""
    start = policy.start
    if start is None:
        return []
    if starts_from_moments(policy):
        of_start, of_patients = FROM_BASIS.format(order=policy.model["order"]), FROM_MOMENTS
        missing, trained, title = NO_MOMENTS, NOTHING_TRAINED, "## What the pictures are made of"
    else:
        of_start, of_patients = FROM_START, FROM_PATIENTS
        missing, trained, title = NOT_RELEASED, NO_DISCRIMINATOR, "## The public start"
    patients = f"**From patients.** {of_patients}" if released else missing
    return [
        title,
        "",
        f"{plain(start.name)}, SHA-256 `{start.digest}`. {plain(start.statement)}",
        "",
        f"**From the start.** {of_start}",
        "",
        patients,
        "",
        trained,
        "",
    ]


def first_weights(policy: FederationPolicy) -> list[tuple[str, str]]:
    """Return the rows on where the weights come from."""
    initial = policy.initial_model
    if starts_from_moments(policy):
        return [("first weights", "none: nothing is trained")]
    if policy.start is not None:
        return [("first weights of the heads", f"from the start's statistics and seed {initial.seed}")]
    seeded = initial.pretraining == "none"
    return [
        ("first weights", f"from seed {initial.seed} alone" if seeded else plain(initial.pretraining)),
        ("running average of the generator, per round", f"{policy.average_decay:g}"),
    ]


def opening(policy: FederationPolicy) -> list[str]:
    """Return how to open the generator with Keras alone; nothing without a start."""
    if policy.start is None:
        return []
    data = policy.data
    shape = f"float32[8, {data.image_size}, {data.image_size}, {data.channels}]"
    conditional, size = data.classes > 0, read_spec(policy.model).latent_dim
    if starts_from_moments(policy):
        meaning = "its numbers say how far a picture lies from the mean of its class"
    else:
        meaning = "the six numbers choose a picture of the start, a colour of the released histogram, and left or right"
    label = [f'label = np.zeros((8, 1), "int32")  # 0 to {data.classes - 1}, in the order of the labels above']
    return [
        "Without this software, the generator opens wherever Keras does. It is built of Keras' own layers:",
        "",
        "```python",
        "import keras",
        "import numpy as np",
        "",
        'model = keras.models.load_model("public/model/generator.keras", compile=False)',
        f'z = np.random.default_rng().standard_normal((8, {size})).astype("float32")',
        *(label if conditional else []),
        f"pixels = model({'[z, label]' if conditional else 'z'})  # {shape} in [-1, 1]",
        "```",
        "",
        f"`z` is float32[n, {size}], standard normal{', and `label` int32[n, 1]' if conditional else ''}; {meaning}.",
        "",
    ]


def rounds_section(policy: FederationPolicy) -> list[str]:
    """Return what each scheduled round costs; nothing without a start."""
    if policy.start is None:
        return []
    rows, first = [], 1
    if policy.release is not None:
        rows.append(("1", "the release: one vector for each patient, summed once", *_cells(policy.release.record())))
        first = 2
    if policy.rounds >= first:
        whole = str(first) if policy.rounds == first else f"{first} to {policy.rounds}"
        rows.append((whole, "noisy steps on the heads", *_cells(policy.mechanism_record())))
    return ["What each scheduled round is, in each hospital:", "", *table(_COLUMNS, rows)]


def mechanism_rows(policy: FederationPolicy, reported: int) -> list[tuple[str, str]]:
    """Return the rows of the statement on what is done to patients' images. Args: reported: rounds with a report."""
    mechanism, release = policy.mechanism, policy.release
    placement = mechanism.noise_placement.replace("_", " ")
    steps = [
        ("mechanism", f"Poisson-sampled Gaussian, noise {placement}"),
        ("sampling probability", f"{mechanism.sampling_probability:.12g}"),
        ("noise multiplier", f"{mechanism.noise_multiplier:.12g}"),
        ("clip norm", f"{mechanism.l2_clip_norm:.12g}"),
        ("steps", f"{mechanism.steps_per_round} a round, {reported} rounds reported"),
    ]
    if release is None:
        return steps
    rows = [
        ("release (round 1)", f"Gaussian, every patient once, noise {placement}"),
        ("noise multiplier of the release", f"{release.noise_multiplier:.12g}"),
        ("clip norm of the release", f"{release.l2_clip_norm:.12g}"),
        ("released vector", f"{release.dimension} numbers, layout {release.layout_sha256}"),
    ]
    if policy.rounds == 1:
        return rows
    ended = f"{mechanism.steps_per_round} a round, rounds reported after the release: {reported - 1}"
    return [*rows, ("mechanism of the steps", steps[0][1]), *steps[1:-1], ("steps", ended)]


def _cells(record: MechanismRecord) -> tuple[str, str, str, str]:
    return (
        f"{record.noise_multiplier:.6g}",
        f"{record.l2_clip_norm:g}",
        f"{record.sampling_probability:g}",
        f"{record.steps} a round" if record.steps > 1 else "1",
    )
