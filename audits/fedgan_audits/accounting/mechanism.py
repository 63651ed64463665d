"""The description of one mechanism: what was done to the patients, from which every privacy figure is recomputed.

A ledger stores these, a report signs these; an epsilon is always derived and never stored as the truth. Three kinds:
:class:`MechanismRecord`, all noise added by the hospital itself; :class:`DistributedMechanism`, which says in `shares`
how the noise of one sum is divided among hospitals; and :class:`SearchMechanism`, a whole search for good settings,
which says in `search` what its trials were. The JSON form of the first is the same as ever; only the second has
`shares` and only the third `search`, so that :func:`parse_mechanism` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Unit = Literal["patient", "image"]
NoisePlacement = Literal["per_hospital", "distributed"]
NeighbouringRelation = Literal["add_or_remove_one"]
Sampler = Literal["poisson"]
IntegerNoise = Literal["discrete_gaussian", "skellam"]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


_Real = Annotated[float, BeforeValidator(_no_bool)]
_Whole = Annotated[int, BeforeValidator(_no_bool)]


class MechanismRecord(BaseModel):
    """`steps` releases of a Poisson-sampled, clipped sum with Gaussian noise, by one hospital on its own patients.

    In each step every unit (patient, or image where no patient is named) is drawn by an independent coin of
    probability `sampling_probability`; each drawn unit contributes a vector of Euclidean norm at most
    `l2_clip_norm`; noise N(0, (noise_multiplier * l2_clip_norm)^2) is added to every coordinate of the sum (Abadi et
    al. 2016, "Deep Learning with Differential Privacy", Algorithm 1, with a public divisor).

    Fields (dimensionless but for `l2_clip_norm`, which is in units of the gradient):
        sampling_probability: in (0, 1], public policy.
        noise_multiplier: in [0, 1e9]; 0 means no noise: epsilon is unbounded.
        steps: number of releases, 1 to 2**40.
        l2_clip_norm: greater than 0.
        unit: whose data one record of the data set is.
        neighbouring_relation: data sets differ by adding or removing one unit; nothing else is accounted.
        sampler: independent coins; shuffling is not Poisson sampling and cannot be recorded (Chua et al. 2024).
        noise_placement: who adds the noise; the accountant proves `per_hospital` alone.
        images_per_patient: public bound on the images of one patient used in one step (unit "patient").

    Raises pydantic.ValidationError on anything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sampling_probability: _Real = Field(gt=0.0, le=1.0)
    noise_multiplier: _Real = Field(ge=0.0, le=1e9)
    steps: _Whole = Field(ge=1, le=2**40)
    l2_clip_norm: _Real = Field(gt=0.0, le=1e12)
    unit: Unit
    neighbouring_relation: NeighbouringRelation = "add_or_remove_one"
    sampler: Sampler = "poisson"
    noise_placement: NoisePlacement = "per_hospital"
    images_per_patient: _Whole = Field(default=1, ge=1, le=2**31)

    @property
    def trained_steps(self) -> float:
        """How many steps of training this is, at most; of a search with a random number of trials, on average."""
        return self.steps


class NoiseShares(BaseModel):
    """How the noise of one secure sum is divided among hospitals; public facts, fixed before the run.

    Fields:
        threshold: t, a sum of fewer hospitals is never released; at least 2.
        colluders: c, hospitals that may tell the coordinator their own noise, below t: the guarantee counts the noise
            of t - c hospitals and holds whoever else takes part.
        grid_step: g, in units of the gradient: sums are rounded to multiples of it.
        dimension: d, coordinates of the sum.
        noise: what each hospital adds to every coordinate of its own rounded sum, in grid steps.

    Raises pydantic.ValidationError on anything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: _Whole = Field(ge=2, le=2**20)
    colluders: _Whole = Field(ge=0, le=2**20)
    grid_step: _Real = Field(gt=0.0, le=1e12)
    dimension: _Whole = Field(ge=1, le=2**40)
    noise: IntegerNoise = "discrete_gaussian"

    @model_validator(mode="after")
    def _someone_is_honest(self) -> NoiseShares:
        if self.colluders >= self.threshold:
            raise ValueError(
                f"{self.colluders} colluders of a sum of {self.threshold} hospitals leave no honest share of the noise"
            )
        return self

    @property
    def honest_shares(self) -> int:
        """t - c: how many shares carry the declared noise."""
        return self.threshold - self.colluders


class DistributedMechanism(MechanismRecord):
    """`steps` releases of a Poisson-sampled, clipped and rounded sum over hospitals that each add a share of noise.

    As MechanismRecord, but: every hospital's clipped sum is clamped and rounded to the grid, integer noise is added,
    and only the sum over at least `shares.threshold` hospitals is seen (Kairouz, Liu and Steinke 2021).
    `noise_multiplier` is the standard deviation of t - c shares together over Delta = C + g sqrt(d), the sensitivity of
    the rounded sum: each hospital adds the variance (noise_multiplier Delta)^2 / (t - c)
    (fedgan_audits.accounting.integer_noise.share_variance).
    """

    noise_placement: Literal["distributed"] = "distributed"
    shares: NoiseShares


SearchCharge = Literal["each_once", "any_of", "winner_alone"]


class TrialSetting(BaseModel):
    """What one trial of a search does to a hospital's patients: `steps` releases at this probability and noise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sampling_probability: _Real = Field(gt=0.0, le=1.0)
    noise_multiplier: _Real = Field(gt=0.0, le=1e9)
    steps: _Whole = Field(ge=1, le=2**40)


class SearchTerms(BaseModel):
    """What a search may do and what of it is released; fixed beforehand. Cost: fedgan_audits.accounting.selection.

    Fields:
        charge: "each_once", every listed setting is tried once and everything may be released; "any_of", `trials`
            trials of which each is one of the settings, chosen with knowledge of earlier trials, everything may be
            released; "winner_alone", a secret random number of trials, each of a setting drawn independently from the
            same public distribution over `settings`, and the trial with the best score alone is released (Papernot and
            Steinke 2021).
        settings: the settings, for "each_once" one for every trial.
        trials: how many trials at most; None for "winner_alone".
        mean_trials: expected number of trials, for "winner_alone" alone, at least 1.
        shape: of the number of trials, for "winner_alone": None is Poisson; 0 logarithmic, 1 geometric, any other
            number at least 0 truncated negative binomial.

    Raises pydantic.ValidationError on anything else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    charge: SearchCharge
    settings: tuple[TrialSetting, ...] = Field(min_length=1, max_length=2_000)
    trials: _Whole | None = Field(default=None, ge=1, le=100_000)
    mean_trials: _Real | None = Field(default=None, ge=1, le=1_000)
    shape: _Real | None = Field(default=None, ge=0, le=100)

    @model_validator(mode="after")
    def _whole(self) -> SearchTerms:
        random = self.charge == "winner_alone"
        if random != (self.mean_trials is not None) or random != (self.trials is None):
            raise ValueError("winner_alone has a mean number of trials, every other charge a number of trials")
        if self.shape is not None and not random:
            raise ValueError("only winner_alone has a distribution of the number of trials")
        if self.charge == "each_once" and self.trials != len(self.settings):
            raise ValueError(f"{self.trials} trials, but {len(self.settings)} settings that are tried once each")
        return self


class SearchMechanism(MechanismRecord):
    """A whole search for settings on a hospital's patients, reserved at once before it starts.

    As MechanismRecord, but `steps` counts searches, 1 as a rule; `sampling_probability` is the largest and
    `noise_multiplier` the smallest of any trial; what is accounted stands in `search`.
    """

    noise_placement: Literal["per_hospital"] = "per_hospital"
    search: SearchTerms

    @model_validator(mode="after")
    def _says_the_most(self) -> SearchMechanism:
        trials = self.search.settings
        most = (max(t.sampling_probability for t in trials), min(t.noise_multiplier for t in trials))
        if (self.sampling_probability, self.noise_multiplier) != most:
            raise ValueError("a search states the largest probability and the smallest noise of its trials")
        return self

    @property
    def trained_steps(self) -> float:
        """As of MechanismRecord: the steps of every trial."""
        steps = [one.steps for one in self.search.settings]
        if self.search.charge == "each_once":
            return self.steps * sum(steps)
        return self.steps * max(steps) * (self.search.trials or self.search.mean_trials or 1)

    @classmethod
    def of(cls, terms: SearchTerms, *, l2_clip_norm: float, unit: Unit, images_per_patient: int) -> SearchMechanism:
        """The record of one search under `terms`; `l2_clip_norm` is the largest of any trial."""
        return cls(
            sampling_probability=max(one.sampling_probability for one in terms.settings),
            noise_multiplier=min(one.noise_multiplier for one in terms.settings),
            steps=1,
            l2_clip_norm=l2_clip_norm,
            unit=unit,
            images_per_patient=images_per_patient,
            search=terms,
        )


AnyMechanism = SearchMechanism | DistributedMechanism | MechanismRecord
"""Any kind, as the type of a record's field: pydantic tells them apart by `shares` and `search`."""


def parse_mechanism(facts: Mapping[str, Any]) -> MechanismRecord:
    """The record that `facts` (a JSON object) describe, of the kind that it has; pydantic.ValidationError if none."""
    if "search" in facts:
        return SearchMechanism.model_validate(facts)
    kind = DistributedMechanism if "shares" in facts else MechanismRecord
    return kind.model_validate(facts)


def is_release(mechanism: MechanismRecord) -> bool:
    """Whether `mechanism` is one noisy sum in which every unit takes part, as a release round reserves it."""
    if isinstance(mechanism, SearchMechanism):
        return False
    return mechanism.sampling_probability == 1.0 and mechanism.steps == 1
