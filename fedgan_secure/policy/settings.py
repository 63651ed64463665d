"""What a person asks for: the settings of a run, from `federation.toml` and the command line, validated.

Settings are a request; :mod:`fedgan_secure.policy.policy` turns them, with the public facts of the data, into the
policy that every hospital checks and signs. A value on the command line wins over the file, the file over the default.
Nothing here is read from patients' data.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedgan_audits.ledger import smallest
from fedgan_secure.errors import InputError

LAYOUTS = (
    "auto", "dicom", "rsna-ct", "rsna-pneumonia", "eyepacs", "aptos", "idrid", "messidor", "folders", "npz", "csv",
)  # fmt: skip
HOSPITAL_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
RESERVED_NAMES = frozenset({"coordinator"})


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FederationSection(_Section):
    """Who takes part and for how long."""

    hospitals: int = Field(4, ge=3, le=99, description="how many hospitals share one data set (or draw phantoms)")
    threshold: int | None = Field(None, ge=2, description="hospitals that must finish a round; default floor(2n/3)+1")
    rounds: int | None = Field(None, ge=1, le=10_000, description="rounds of the fixed schedule; default 12")
    spare_rounds: int = Field(
        0, ge=0, le=1_000, description="extra rounds, paid for in advance, for attempts that fail"
    )
    steps_per_round: int | None = Field(
        None, ge=1, le=1_000_000, description="discriminator steps of a hospital a round"
    )


class DataSection(_Section):
    """Where the images are and how they are read. Without `dataset` and `hospital`, phantoms are drawn."""

    dataset: Path | None = Field(None, description="one data set, split by patient over the hospitals")
    hospital: dict[str, Path] = Field(default_factory=dict, description="one folder (or .npz) a hospital")
    layout: Literal[LAYOUTS] = Field("auto", description="how the folder names its patients and labels")  # type: ignore[valid-type]
    label_names: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="the labels, declared; default: the layout's, or read off the data",
    )
    preprocessing: Literal["auto", "fundus-crop/1", "ct-abdomen-window/1", "plain/1", "by-modality/1"] = Field(
        "auto", description="how pixels are prepared; auto follows from the layout"
    )
    partition: str = Field("iid", description="iid, by-label or dirichlet:ALPHA (only with `dataset`)")
    image_size: Literal[28, 64, 128] = Field(64, description="pixels a side")
    channels: Literal[1, 3] = Field(3, description="1 grey, 3 colour")
    conditional: bool = Field(True, description="the generator takes a label")
    unit: Literal["patient", "image"] = Field("patient", description="what epsilon protects")
    images_per_patient: int | None = Field(
        None, ge=1, le=64, description="public bound: images of a patient used in one step; default 2 (phantoms: 1)"
    )
    exclude_patient: tuple[str, ...] = Field((), description="patients that a person has withdrawn")
    exclude_unknown_ok: bool = Field(False, description="also where nobody has a name in `exclude_patient`")
    patient_pattern: str | None = Field(None, description="regular expression with a group `patient` (class folders)")
    image_column: str | None = Field(None, description="of a table of labels: the column that names the file")
    label_column: str | None = Field(None, description="of a table of labels: the column with the label")
    patient_column: str | None = Field(None, description="of a table of labels: the column that names the patient")
    phantom_patients: int = Field(3000, ge=8, le=100_000, description="patients drawn for each hospital, without data")

    @field_validator("partition")
    @classmethod
    def _partition(cls, value: str) -> str:
        if value in ("iid", "by-label"):
            return value
        match = re.fullmatch(r"dirichlet:([0-9]*\.?[0-9]+)", value)
        if match is None or float(match.group(1)) <= 0:
            raise ValueError("expected iid, by-label or dirichlet:ALPHA with ALPHA > 0, such as dirichlet:0.5")
        return value

    @field_validator("hospital")
    @classmethod
    def _names(cls, value: dict[str, Path]) -> dict[str, Path]:
        for name in value:
            check_hospital_name(name)
        return value

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if self.dataset is not None and self.hospital:
            raise ValueError("expected either `dataset` or `hospital` folders, found both")
        return self


class PrivacySection(_Section):
    """The mechanism and what it may cost."""

    epsilon: float | None = Field(None, gt=0, le=1000, description="target; the noise is calibrated to it")
    noise_multiplier: float | None = Field(None, gt=0, le=1e6, description="noise over clip norm; instead of epsilon")
    delta: float | None = Field(None, gt=0, lt=0.5, description="default 1 / (10 x declared patients)")
    sampling_probability: float | None = Field(None, gt=0, le=1, description="chance of a patient to be in a step")
    declared_patients: int | None = Field(None, ge=1, description="public nominal cohort of a hospital")
    l2_clip_norm: float | None = Field(None, ge=1e-10, description="bound on one patient's gradient")
    release_noise_multiplier: float | None = Field(
        None, gt=0, le=1e6, description="noise of the release round, with a public start; default: its share of epsilon"
    )
    noise_placement: Literal["per_hospital", "distributed"] = Field("per_hospital", description="who adds the noise")
    epsilon_cap: float | None = Field(
        None, gt=0, description="lowers every hospital's cap over its whole ledger; its own is in hospital.toml"
    )
    hospitals_per_patient: int = Field(
        1, ge=1, le=99, description="public bound: in how many of the hospitals a patient may be"
    )
    allow_large_delta: bool = Field(
        False, description="take a delta above 1 / (declared patients); every report then says STOP"
    )
    no_privacy: bool = Field(False, description="a researcher's baseline: unbounded epsilon, every report says so")

    @model_validator(mode="after")
    def _one_target(self) -> PrivacySection:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ValueError("expected `epsilon` or `noise_multiplier`, found both: the one decides the other")
        if self.no_privacy and (self.epsilon is not None or self.noise_multiplier is not None):
            raise ValueError("expected no `epsilon` and no `noise_multiplier` with `no_privacy`")
        if self.no_privacy and self.release_noise_multiplier is not None:
            raise ValueError("expected no `release_noise_multiplier` with `no_privacy`: there is no noise")
        if self.noise_placement == "distributed" and self.no_privacy:
            raise ValueError("expected `per_hospital` noise with `no_privacy`: there is no noise to share")
        return self


class TrainingSection(_Section):
    """Public constants of the optimisation; None means the default for the image size."""

    discriminator_learning_rate: float | None = Field(None, gt=0, le=1)
    generator_learning_rate: float | None = Field(None, gt=0, le=1)
    steps_per_generator_step: int | None = Field(
        None, ge=1, le=1000, description="discriminator steps per generator step; default 1"
    )
    latent_dim: int | None = Field(None, ge=2, le=1024)
    start: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="the public start to adapt: fundus64/1, a file, moments, or none; default: where one fits",
    )
    update_bound: float = Field(1.0, gt=0, le=1000, description="box that every coordinate of an update is clamped to")
    ring_bits: Literal[32, 64] = Field(32, description="width of the ring that masks live in")
    fraction_bits: int | None = Field(
        None, ge=1, le=60, description="fixed-point precision; default the finest that fits"
    )


CLAIMS = re.compile(r"\bcompliant\b|anonym|guarant|tamper.?proof|\bcertified\b", re.IGNORECASE)

TOPICS = {
    "controllers": "Controllers",
    "data_protection_officer": "Data protection officer",
    "purpose": "Purpose",
    "legal_basis": "Legal basis",
    "impact_assessment": "Impact assessment",
    "agreements": "Agreements",
    "transfers": "Transfers",
    "retention": "Retention",
}
"""What people may declare, by key, as section J of the reports calls it."""


class GovernanceSection(_Section):
    """What people declare about a federation, or about their hospital in it. It is repeated and cannot be checked."""

    controllers: str | None = Field(None, description="who is responsible, GDPR Art. 4(7), 26")
    data_protection_officer: str | None = Field(None, description="whom to ask, GDPR Art. 37")
    purpose: str | None = Field(None, description="what the images are used for, GDPR Art. 5(1)(b)")
    legal_basis: str | None = Field(None, description="GDPR Art. 6, 9 and 89, or another law")
    impact_assessment: str | None = Field(None, description="reference of the assessment, GDPR Art. 35")
    agreements: str | None = Field(None, description="references: business associate or data use agreements")
    transfers: str | None = Field(None, description="to which countries, GDPR Chapter V")
    retention: str | None = Field(None, description="how long images, models and reports are kept")

    @field_validator("*")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not 1 <= len(value.strip()) <= 2_000 or any(not (char.isprintable() or char == "\n") for char in value):
            raise ValueError("expected 1 to 2000 printable characters")
        if claim := CLAIMS.search(value):
            raise ValueError(f"{claim.group()!r} is a claim that no report makes; expected a reference or a fact")
        return value.strip()

    def declared(self) -> tuple[tuple[str, str], ...]:
        """(topic, text) of everything that was declared, in the order of TOPICS."""
        given = ((topic, getattr(self, key)) for key, topic in TOPICS.items())
        return tuple((topic, text) for topic, text in given if text is not None)


class HospitalPrivacySection(_Section):
    """What a hospital allows on its own patients, whatever a federation asks for."""

    epsilon_cap: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="its cap on epsilon over its whole ledger; raised with `cap`"
    )


class HospitalSettings(_Section):
    """A hospital's own `hospital.toml`, in its site directory.

    Raises:
        InputError: from :meth:`read`, naming the file and the key that is wrong.
    """

    governance: GovernanceSection = GovernanceSection.model_validate({})
    privacy: HospitalPrivacySection = HospitalPrivacySection.model_validate({})

    @classmethod
    def read(cls, path: Path) -> HospitalSettings:
        """The settings in `path`; the defaults where there is no such file."""
        raw = read_toml(path) if path.exists() else {}
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise _wrong(error, str(path), "see docs/run-directory.md for what hospital.toml may hold") from error


def own_cap(path: Path, asked: float | None) -> float | None:
    """Return the cap that a hospital's `hospital.toml` at `path` and a federation's settings give: the smaller one.

    What its ledger holds it to may be smaller still (`fedgan_audits.ledger.caps`).
    """
    return smallest(HospitalSettings.read(path).privacy.epsilon_cap, asked)


class RunSettings(_Section):
    """Everything that `fedgan-secure run` takes, but for the flags of one invocation.

    Raises:
        InputError: from :meth:`read` and :meth:`merged`, naming the key that is wrong.
    """

    federation: FederationSection = FederationSection.model_validate({})
    data: DataSection = DataSection.model_validate({})
    privacy: PrivacySection = PrivacySection.model_validate({})
    training: TrainingSection = TrainingSection.model_validate({})
    governance: GovernanceSection = GovernanceSection.model_validate({})
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The raw tables of a federation file; relative data paths are taken from the file's own folder."""
        raw = read_toml(path)
        data = raw.get("data")
        if isinstance(data, dict):
            if isinstance(data.get("dataset"), str):
                data["dataset"] = str(path.parent / data["dataset"])
            if isinstance(data.get("hospital"), dict):
                data["hospital"] = {
                    name: str(path.parent / place) if isinstance(place, str) else place
                    for name, place in data["hospital"].items()
                }
        return raw

    @classmethod
    def merged(cls, raw: dict[str, Any], overrides: dict[str, Any], source: str = "the settings") -> RunSettings:
        """Validate file tables with dotted command-line overrides (`privacy.epsilon`) laid over them."""
        tree = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
        data = tree.get("data")
        if isinstance(data, dict):
            if "data.dataset" in overrides:
                data.pop("hospital", None)
            if "data.hospital" in overrides:
                data.pop("dataset", None)
        privacy = tree.get("privacy")
        if isinstance(privacy, dict) and {
            "privacy.epsilon",
            "privacy.noise_multiplier",
            "privacy.no_privacy",
        } & set(overrides):
            for key in ("epsilon", "noise_multiplier", "no_privacy"):
                privacy.pop(key, None)
        for dotted, value in overrides.items():
            *sections, key = dotted.split(".")
            target = tree
            for section in sections:
                target = target.setdefault(section, {})
            target[key] = value
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            hint = "see `fedgan-secure run --help`; `fedgan-secure init -` prints every key of the file"
            raise _wrong(error, source, hint) from error

    def resolved(self, known_starts: Collection[str]) -> RunSettings:
        """Return these settings with every place absolute, as a run keeps them: it may go on from another folder.

        Args:
            known_starts: names that `training.start` may have beside a file's; a file of such a name is not meant.
        """
        data, training = self.data, self.training
        places = {
            "dataset": None if data.dataset is None else data.dataset.resolve(),
            "hospital": {name: place.resolve() for name, place in data.hospital.items()},
        }
        start = training.start
        if start is not None and start not in known_starts:
            start = str(Path(start).resolve())
        return self.model_copy(
            update={
                "data": data.model_copy(update=places),
                "training": training.model_copy(update={"start": start}),
            }
        )


def read_toml(path: Path) -> dict[str, Any]:
    """The raw tables of a TOML file, with a mark of UTF-8 at its start or without; raises InputError where it cannot be
    read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", hint="write one with `fedgan-secure init`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", hint="expected a UTF-8 text file in TOML") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}", hint="compare it with `fedgan-secure init`") from error


def _wrong(error: ValidationError, source: str, hint: str) -> InputError:
    """The first thing that is wrong, by its key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the request"
    found = first.get("input")
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) else ""
    text = first["msg"].removeprefix("Value error, ")
    return InputError(f"{source}: {key}: {text}{shown}", hint=hint)


def check_hospital_name(name: str) -> None:
    """Refuse a name that could not be a folder, a file name in a report, or that another part of a run uses.

    Raises:
        ValueError: naming what was found and expected.
    """
    if not HOSPITAL_NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ValueError(
            f"hospital name {name!r}: expected 1 to 32 of a-z, 0-9 and -, starting with a letter or digit, "
            "and not 'coordinator'"
        )
