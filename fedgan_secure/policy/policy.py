"""The policy of a federation: the public, validated settings that every hospital checks before it takes part.

A policy holds public facts. What the one operator of a simulation left undeclared and had to be read off the
patients' data (`flags.taken_from_data`: the cohort, the labels, the kind of images, the split) is named there and in
every report, because epsilon does not cover what it reveals. The policy's digest is in every secure-aggregation
message and every report, so two parties that hold different policies cannot finish a round together.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal

import rfc8785
from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from fedgan_audits.accounting import DistributedMechanism, MechanismRecord, NoisePlacement, NoiseShares, scheduled
from fedgan_audits.facts import colluders_against_lying
from fedgan_protocols import ProtocolError
from fedgan_protocols.primitives import FixedPoint, is_safe_public_key, prove_headroom
from fedgan_secure.errors import InputError
from fedgan_secure.policy.release_policy import PublicFacts, ReleasePolicy, RingPolicy, StartPolicy
from fedgan_secure.policy.settings import check_hospital_name
from fedgan_secure.privacy import Schedule, check_shares, headroom


class HospitalEntry(PublicFacts):
    """A hospital as its peers know it: a pseudonymous name and the Ed25519 key (hex, 32 bytes) exchanged beforehand."""

    name: str
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        check_hospital_name(value)
        return value


class CoordinatorEntry(PublicFacts):
    """The coordinator's Ed25519 key (hex, 32 bytes)."""

    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")


class MechanismPolicy(PublicFacts):
    """What every hospital does to its patients' gradients, in the accountant's terms."""

    sampling_probability: float = Field(gt=0, le=1)
    noise_multiplier: float = Field(ge=0)
    l2_clip_norm: float = Field(ge=1e-10)
    steps_per_round: int = Field(ge=1)
    delta: float = Field(gt=0, lt=0.5)
    epsilon_target: float | None = None
    declared_patients: int = Field(ge=1)
    expected_batch_size: float = Field(gt=0)
    unit: Literal["patient", "image"] = "patient"
    images_per_patient: int = Field(ge=1)
    neighbouring_relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    sampler: Literal["poisson"] = "poisson"
    noise_placement: NoisePlacement = "per_hospital"
    hospitals_per_patient: int = Field(1, ge=1, description="declared bound: in how many hospitals a patient may be")

    @model_validator(mode="after")
    def _placed(self) -> MechanismPolicy:
        if (self.noise_placement == "distributed") != isinstance(self, DistributedMechanismPolicy):
            raise ValueError("distributed noise comes with the shares of the hospitals, and shares with nothing else")
        return self

    def record(self) -> MechanismRecord:
        """One round's mechanism as the accountant takes it."""
        return MechanismRecord(**self._record_fields())

    def _record_fields(self) -> dict[str, Any]:
        names = MechanismRecord.model_fields.keys() - {"steps"}
        return {"steps": self.steps_per_round, **{name: getattr(self, name) for name in names}}


class DistributedMechanismPolicy(MechanismPolicy):
    """Noise of which every hospital adds a share; `noise_multiplier` is that of t - c shares over C + g sqrt(d)."""

    noise_placement: Literal["distributed"] = "distributed"
    shares: NoiseShares

    def record(self) -> DistributedMechanism:
        """One round's mechanism as the accountant takes it."""
        return DistributedMechanism(**self._record_fields(), shares=self.shares)


class DataPolicy(PublicFacts):
    """How pixels are prepared, the same at every hospital."""

    image_size: Literal[28, 64, 128]
    channels: Literal[1, 3]
    classes: int = Field(ge=0, description="0: unconditional")
    label_names: tuple[str, ...] = ()
    preprocessing: str
    preprocessing_digest: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="what it makes of fixed pictures")
    phantoms: bool = False
    unit_remark: str = ""


class Flags(PublicFacts):
    """What weakens or qualifies the claims of the reports; each is printed in every report."""

    no_privacy: bool = False
    insecure_deterministic: bool = False
    taken_from_data: tuple[str, ...] = ()


class InitialModel(PublicFacts):
    """Where the first weights came from: a seed, a public start, or another run's released model.

    Every hospital makes the first model itself, from what it was given, and trains from it only where it has the
    digest that is named here.
    """

    seed: int
    from_run: str | None = None
    model_digest: str | None = Field(None, description="of the released model's files, with `from_run`")
    pretraining: str = "none"
    vector_digest: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="names the model that round 1 starts from; None in older policies",
    )


class Declaration(PublicFacts):
    """Something that people declared about the federation, or about one hospital: repeated, never verified."""

    topic: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1, max_length=2000)


class FederationPolicy(PublicFacts):
    """The whole policy. `digest` is SHA-256 of its canonical JSON (RFC 8785).

    Raises:
        InputError: from :meth:`parse`, naming the key; from :meth:`build`, also where the ring would overflow.
    """

    policy_version: Literal["0"] = "0"
    run_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    coordinator: CoordinatorEntry
    hospitals: tuple[HospitalEntry, ...] = Field(min_length=3)
    threshold: int = Field(ge=2)
    rounds: int = Field(ge=1)
    spare_rounds: int = Field(ge=0)
    mechanism: SerializeAsAny[MechanismPolicy]
    data: DataPolicy
    model: dict[str, Any]
    training: dict[str, Any]
    ring: RingPolicy
    ring_bits: Literal[32, 64]
    average_decay: float = Field(ge=0, lt=1, description="running average of the published generator, per round")
    initial_model: InitialModel
    flags: Flags = Flags()
    governance: tuple[Declaration, ...] = ()
    headroom: str = ""
    start: StartPolicy | None = Field(None, description="the public start that the run adapts, if any")
    release: ReleasePolicy | None = Field(None, description="what round 1 does instead of steps, if anything")

    @field_validator("mechanism", mode="before")
    @classmethod
    def _which_mechanism(cls, value: Any) -> Any:
        shared = isinstance(value, dict) and "shares" in value
        return DistributedMechanismPolicy.model_validate(value) if shared else value

    @model_validator(mode="after")
    def _consistent(self) -> FederationPolicy:
        self._check_keys()
        names = [entry.name for entry in self.hospitals]
        if self.threshold > len(names):
            raise ValueError(f"threshold {self.threshold} is more than the {len(names)} hospitals")
        if 2 * self.threshold <= len(names):
            raise ValueError(
                f"threshold {self.threshold} of {len(names)} hospitals: two disjoint groups could each finish a "
                "round, expected more than half"
            )
        if self.mechanism.hospitals_per_patient > len(names):
            raise ValueError(
                f"hospitals_per_patient is {self.mechanism.hospitals_per_patient}, expected at most the number of "
                f"hospitals, {len(names)}"
            )
        if self.ring.ring_bits != self.ring_bits:
            raise ValueError("ring_bits is stated twice with different values")
        if (self.mechanism.noise_multiplier == 0) != self.flags.no_privacy:
            raise ValueError("a noise multiplier of 0 and the flag no_privacy go together")
        expected = self.mechanism.sampling_probability * self.mechanism.declared_patients
        if not math.isclose(self.mechanism.expected_batch_size, expected, rel_tol=1e-9):
            raise ValueError("expected_batch_size must be sampling_probability x declared_patients")
        if isinstance(self.mechanism, DistributedMechanismPolicy):
            self._check_shares(self.mechanism.shares)
            check_shares(self.mechanism.record(), self.fixed_point())
        if self.release is not None:
            self._check_release(self.release)
        return self

    def _check_keys(self) -> None:
        """Names and keys are of one party each, and each key identifies a signer."""
        names = [entry.name for entry in self.hospitals]
        keys = [entry.public_key for entry in self.hospitals] + [self.coordinator.public_key]
        if len(set(names)) != len(names) or len(set(keys)) != len(keys):
            raise ValueError("hospital names and keys must all differ")
        owners = zip([*names, "coordinator"], keys, strict=True)
        unsafe = [name for name, key in owners if not is_safe_public_key(bytes.fromhex(key))]
        if unsafe:
            raise ValueError(
                f"the key of {', '.join(unsafe)} has small order or is not in its one encoding: it identifies no "
                "signer; expected one that `fedgan-secure keys new` made"
            )

    def _check_release(self, release: ReleasePolicy) -> None:
        """Round 1 and the others are one run: one unit, one placement of noise, one public start."""
        if self.start is None:
            raise ValueError("a release of features needs the public start that computes them")
        if (release.shares is None) == (self.distributed is not None):
            raise ValueError("the noise of the release and that of the steps have different placements")
        if release.unit != self.mechanism.unit:
            raise ValueError(f"the release protects a {release.unit}, the steps a {self.mechanism.unit}")
        if (release.noise_multiplier == 0) != self.flags.no_privacy:
            raise ValueError("a release without noise and the flag no_privacy go together")
        if release.ring.ring_bits != self.ring_bits:
            raise ValueError("the release and the steps have rings of different widths")
        if self.rounds == 1 and release.record() != self.mechanism.record():
            raise ValueError("the one scheduled round is the release, and another mechanism is given for it")
        if release.shares is not None:
            self._check_shares(release.shares)
            record = release.record()
            assert isinstance(record, DistributedMechanism)  # noqa: S101 - it has shares
            check_shares(record, release.fixed_point())

    def _check_shares(self, shares: NoiseShares) -> None:
        """Shared noise is hidden by secure aggregation, so its proof takes the protocol's own bounds."""
        tolerated = colluders_against_lying(len(self.hospitals), self.threshold)
        if tolerated < 1:
            raise ValueError(
                f"distributed noise with a threshold of {self.threshold} of {len(self.hospitals)}: no hospital may "
                "collude with the coordinator, expected a threshold that allows for at least one"
            )
        if (shares.threshold, shares.colluders) != (self.threshold, tolerated):
            raise ValueError(
                f"the shares count a threshold of {shares.threshold} and {shares.colluders} colluders, expected the "
                f"policy's {self.threshold} and {tolerated}"
            )
        if self.flags.no_privacy:
            raise ValueError("distributed noise and the flag no_privacy exclude each other")

    @classmethod
    def build(cls, **fields: Any) -> FederationPolicy:
        """Validate a policy and prove that its ring cannot overflow; the proof becomes part of the policy."""
        ring: RingPolicy = fields["ring"]
        release: ReleasePolicy | None = fields.get("release")
        roster = len(fields["hospitals"])
        try:
            codec = FixedPoint(ring.update_bound, ring.ring_bits, ring.fraction_bits)
            mechanism = fields["mechanism"]
            rounds = fields["rounds"] - (release is not None and fields["rounds"] > 1)
            proof = _headroom(codec, mechanism.record(), roster, rounds * mechanism.steps_per_round)
            if release is not None:
                own = _headroom(release.fixed_point(), release.record(), roster, 1)
                fields = {**fields, "release": release.model_copy(update={"headroom": own})}
        except ProtocolError as error:
            raise InputError(
                f"training.fraction_bits, training.update_bound, training.ring_bits: {error}",
                hint="leave training.fraction_bits out (the finest that fits), or set training.ring_bits = 64",
            ) from error
        return cls._validated({**fields, "ring_bits": ring.ring_bits, "headroom": proof})

    @classmethod
    def parse(cls, data: bytes) -> FederationPolicy:
        """Read `policy.json`; bytes that are not their own canonical form are refused."""
        import json

        try:
            policy = cls._validated(json.loads(data))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"policy.json is not JSON: {error}", hint="restore it from the run's backup") from error
        if policy.canonical() != data:
            raise InputError("policy.json is not in canonical form", hint="restore it from the run's backup")
        return policy

    @classmethod
    def _validated(cls, fields: Any) -> FederationPolicy:
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "policy"
            raise InputError(
                f"policy: {key}: {first['msg'].removeprefix('Value error, ')}",
                hint="change the setting that decides it, or upgrade fedgan-secure if the policy is newer",
            ) from error

    def canonical(self) -> bytes:
        """The bytes of `policy.json`: canonical JSON (RFC 8785); a policy without a start says nothing of starts."""
        values = self.model_dump(mode="json")
        for table, name in ((values, "start"), (values, "release"), (values["initial_model"], "vector_digest")):
            if table[name] is None:
                del table[name]
        return rfc8785.dumps(values)

    def starting_from(self, digest: str) -> FederationPolicy:
        """Return the same policy with the digest (hex) of the model that round 1 starts from."""
        initial = {**self.initial_model.model_dump(), "vector_digest": digest}
        return self._validated({**dict(self), "initial_model": initial})

    def digest(self) -> bytes:
        """SHA-256 of :meth:`canonical`, 32 bytes."""
        return hashlib.sha256(self.canonical()).digest()

    def fixed_point(self) -> FixedPoint:
        """The encoder of updates that this policy fixes."""
        return FixedPoint(self.ring.update_bound, self.ring.ring_bits, self.ring.fraction_bits)

    @property
    def names(self) -> tuple[str, ...]:
        """Hospital names in roster order."""
        return tuple(entry.name for entry in self.hospitals)

    def mechanism_record(self) -> MechanismRecord:
        """The mechanism of a scheduled round, but for a release, as the accountant takes it."""
        return self.mechanism.record()

    def is_release(self, round_number: int) -> bool:
        """Whether a scheduled round (from 1) is the release."""
        return self.release is not None and round_number == 1

    def record_of(self, round_number: int) -> MechanismRecord:
        """The mechanism that a scheduled round (from 1) reserves."""
        if self.release is not None and round_number == 1:
            return self.release.record()
        return self.mechanism.record()

    def scheduled_records(self) -> tuple[MechanismRecord, ...]:
        """What all scheduled rounds reserve, the steps of all rounds as one record."""
        return scheduled(self.mechanism.record(), self.rounds, None if self.release is None else self.release.record())

    def codec_of(self, round_number: int) -> FixedPoint:
        """The encoder of what a hospital gives to a scheduled round (from 1)."""
        release = self.release
        return release.fixed_point() if release is not None and round_number == 1 else self.fixed_point()

    @property
    def distributed(self) -> DistributedMechanismPolicy | None:
        """The mechanism where its noise is shared, else None."""
        return self.mechanism if isinstance(self.mechanism, DistributedMechanismPolicy) else None

    def is_stepwise(self, round_number: int) -> bool:
        """Whether a scheduled round (from 1) is made of one secure sum for every step."""
        return self.distributed is not None and not self.is_release(round_number)

    def lengths(self, update: int, round_number: int) -> tuple[int, ...]:
        """The lengths of a round's sums: the release's; `update`, an update's; or with shared noise S times d."""
        shared = self.distributed
        if self.release is not None and round_number == 1:
            return (self.release.dimension,)
        return (update,) if shared is None else (shared.shares.dimension,) * shared.steps_per_round


def _headroom(codec: FixedPoint, mechanism: MechanismRecord, roster: int, sums: int) -> str:
    """The proof that no sum over the roster wraps; raises ProtocolError where one could."""
    if isinstance(mechanism, DistributedMechanism):
        return headroom(codec, mechanism, Schedule(roster, sums))
    return prove_headroom(codec, [1] * roster)
