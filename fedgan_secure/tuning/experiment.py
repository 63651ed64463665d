"""EXPERIMENT.toml: what is searched, on whose images, by which measure. Validated before anything is read or spent."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedgan_secure.errors import BudgetRefused, InputError
from fedgan_secure.policy import RunSettings, read_toml
from fedgan_secure.tuning import space as spaces
from fedgan_secure.tuning.space import Method, Value

TrainsOn = Literal["phantoms", "public", "patients"]
SHAPES: Mapping[str, float | None] = {"poisson": None, "geometric": 1.0, "logarithmic": 0.0}
MINIMISED = frozenset({"feature_distance"})


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


MOST_CHARGED = 2000
"""As many trials as one entry of a ledger holds."""


class SearchSection(_Section):
    """How settings are chosen, on whose images they are tried, and what that is charged."""

    method: Method = Field("random", description="grid: all; random: independent draws; bayes: learns as it goes")
    trials: int | None = Field(None, ge=1, le=10_000, description="how many settings are tried; default 12")
    seeds: int = Field(1, ge=1, le=20, description="runs of each setting, for intervals")
    workers: int = Field(0, ge=0, le=64, description="processes; 0: one for every core")
    trains_on: TrainsOn = Field("phantoms", description="phantoms and public images are free, patients are charged")
    charge: Literal["composition", "winner_alone"] = Field("composition", description="what of the search is released")
    mean_trials: float | None = Field(None, ge=1, le=500, description="winner_alone: expected number of trials")
    distribution: Literal["poisson", "geometric", "logarithmic"] = Field(
        "poisson", description="winner_alone: of the secret number of trials"
    )

    @model_validator(mode="after")
    def _fits(self) -> SearchSection:
        if self.charge == "winner_alone":
            if self.trains_on != "patients":
                raise ValueError(f"charge = winner_alone, but trains_on = {self.trains_on} costs nothing anyway")
            if self.method != "random":
                raise ValueError(
                    f"charge = winner_alone needs method = random, found {self.method}: the theorem is about "
                    "independent draws, and a grid or a search that learns is charged by composition"
                )
            if self.trials is not None:
                raise ValueError(
                    "charge = winner_alone takes mean_trials, not trials: the number is drawn and stays secret"
                )
            if self.mean_trials is None:
                raise ValueError("charge = winner_alone needs mean_trials, the expected number of trials")
        elif self.mean_trials is not None:
            raise ValueError("mean_trials is given, but only charge = winner_alone draws the number of trials")
        if self.trains_on == "patients" and (self.trials or 0) > MOST_CHARGED:
            raise ValueError(f"trials = {self.trials} on patients; at most {MOST_CHARGED} can be charged")
        if self.method == "grid" and self.trials is not None:
            raise ValueError("method = grid tries every setting once; leave trials out")
        return self


class ObjectiveSection(_Section):
    """By which measure a setting is judged, and on which images."""

    metric: Literal["feature_distance", "tstr", "realism"] = Field(
        "feature_distance", description="smaller is better for feature_distance, larger for the other two"
    )
    measured_on: Literal["phantoms", "public"] = Field("phantoms", description="never on patients")
    dataset: Path | None = Field(None, description="the public images, for measured_on = public")
    layout: str = "auto"
    unit: Literal["patient", "image"] = "patient"
    count: int = Field(1000, ge=50, le=100_000, description="images generated for the measurement (public)")
    steps: int = Field(300, ge=10, le=100_000, description="training steps of the measuring classifier (public)")

    @model_validator(mode="after")
    def _fits(self) -> ObjectiveSection:
        if (self.measured_on == "public") != (self.dataset is not None):
            raise ValueError("measured_on = public goes with dataset, the folder of public images, and with it alone")
        if self.metric == "realism" and self.measured_on != "public":
            raise ValueError("metric = realism needs measured_on = public")
        return self


class PublicSection(_Section):
    """Images that anyone may have, to train trials on."""

    dataset: Path
    statement: str = Field(min_length=10, max_length=2000, description="why these images are public, in your words")


class PatientsSection(_Section):
    """The hospitals' own folders, whose ledgers pay for the search."""

    site_dir: Path


class Experiment(_Section):
    """A whole experiment. Raises InputError and BudgetRefused from :meth:`read`, naming the key."""

    name: str = Field("search", pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")
    base: Path | None = Field(None, description="a federation.toml: all that is not searched")
    seed: int = Field(0, ge=0, lt=2**31)
    search: SearchSection = SearchSection.model_validate({})
    objective: ObjectiveSection = ObjectiveSection.model_validate({})
    space: dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict, description="as federation.toml, laid over base")
    public: PublicSection | None = None
    patients: PatientsSection | None = None

    @field_validator("space")
    @classmethod
    def _space(cls, value: dict[str, Any]) -> dict[str, Any]:
        spaces.parse(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        on = self.search.trains_on
        for name, needed in (("public", on == "public"), ("patients", on == "patients")):
            if needed != (getattr(self, name) is not None):
                raise ValueError(
                    f"search.trains_on = {on}, but a section [{name}] is " + ("missing" if needed else "given")
                )
        if not self.parsed and self.search.method != "random":
            raise ValueError("[space] is empty: there is nothing to search")
        if self.search.method == "grid" or (self.charged and (self.search.method == "bayes" or self.winner_alone)):
            spaces.product(self.parsed)
        return self

    @property
    def parsed(self) -> dict[str, spaces.Choices | spaces.Range]:
        """The space, key by key."""
        return spaces.parse(self.space)

    @property
    def charged(self) -> bool:
        """Whether the search costs patients anything."""
        return self.search.trains_on == "patients"

    @property
    def winner_alone(self) -> bool:
        """Whether only the best trial may ever be shown."""
        return self.search.charge == "winner_alone"

    @property
    def minimise(self) -> bool:
        """Whether a smaller score is better."""
        return self.objective.metric in MINIMISED

    @property
    def trials(self) -> int | None:
        """How many trials there are; None where the number is drawn and secret."""
        if self.winner_alone:
            return None
        return len(spaces.product(self.parsed)) if self.search.method == "grid" else self.search.trials or 12

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """The experiment in `path`; relative paths start at the file's folder."""
        raw = read_toml(path)
        where = path.resolve().parent
        for section, key in (
            (None, "base"), ("objective", "dataset"), ("public", "dataset"), ("patients", "site_dir"),
        ):  # fmt: skip
            table = raw if section is None else raw.get(section)
            if isinstance(table, dict) and isinstance(table.get(key), str):
                table[key] = str(where / table[key])
        data = raw["settings"].get("data") if isinstance(raw.get("settings"), dict) else None
        if isinstance(data, dict):
            raw["settings"]["data"] = _absolute(data, where)
        return cls.checked(raw, str(path))

    @classmethod
    def checked(cls, raw: Mapping[str, Any], source: str) -> Experiment:
        """Validate tables, the base file and every listed choice included."""
        objective = raw.get("objective")
        if isinstance(objective, Mapping) and objective.get("measured_on") in ("patients", "test", "hospitals"):
            raise BudgetRefused(
                f"{source}: objective.measured_on = {objective['measured_on']!r} would read the patients' own images "
                "for every trial, and no mechanism pays for what a score on them reveals",
                hint="measure on phantoms, or on public images that are no hospital's (measured_on = public, dataset)",
            )
        try:
            experiment = cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the experiment"
            text = first["msg"].removeprefix("Value error, ")
            raise InputError(
                f"{source}: {key}: {text}", hint="`fedgan-secure tune init -` prints every key of the file"
            ) from error
        experiment.settings_of({}, source)
        for key, values in experiment.parsed.items():
            ends = (values.low, values.high) if isinstance(values, spaces.Range) else values
            for value in ends:
                experiment.settings_of({key: spaces.KEYS[key](value)}, source)
        return experiment

    def raw_settings(self) -> dict[str, Any]:
        """The federation's tables without what is searched: base under [settings]."""
        tables = {} if self.base is None else RunSettings.read(self.base)
        if self.base is not None and isinstance(tables.get("data"), dict):
            tables["data"] = _absolute(tables["data"], Path.cwd())
        tree = copy.deepcopy(tables)
        for key, value in self.settings.items():
            if isinstance(value, dict) and isinstance(tree.get(key), dict):
                tree[key] = {**tree[key], **value}
            else:
                tree[key] = copy.deepcopy(value)
        return _from_a_seed(tree)

    def settings_of(self, setting: Mapping[str, Value], source: str = "the experiment") -> RunSettings:
        """The federation's settings with one setting laid over them, on the federation's own data."""
        return RunSettings.merged(self.raw_settings(), dict(setting), source=source)

    def trial_settings(self, setting: Mapping[str, Value], seed: int) -> RunSettings:
        """As settings_of, on the images that trials are done on, and without a cap of its own.

        On phantoms each hospital has as many patients as the federation declares: batches are as large as there.
        """
        own = self.settings_of(setting)
        tree = own.model_dump(mode="json", exclude_none=True)
        tree["seed"] = seed
        tree["privacy"].pop("epsilon_cap", None)
        if self.search.trains_on != "patients":
            data = tree["data"]
            hospitals = len(own.data.hospital) or own.federation.hospitals
            tree["federation"]["hospitals"] = hospitals
            for key in ("dataset", "hospital", "label_names", "exclude_patient", "patient_pattern"):
                data.pop(key, None)
            if self.public is not None:
                data["dataset"] = str(self.public.dataset)
            else:
                data |= {"layout": "auto", "preprocessing": "auto", "unit": "patient"}
                if own.privacy.declared_patients is not None:
                    data["phantom_patients"] = max(8, min(own.privacy.declared_patients, 100_000))
        return RunSettings.merged(tree, {})


def _from_a_seed(tree: dict[str, Any]) -> dict[str, Any]:
    """The tables with no public start: what a search varies belongs to networks that are trained from a seed."""
    training = tree.get("training", {})
    if not isinstance(training, dict):
        return tree
    if training.get("start", "none") != "none":
        raise InputError(
            f"training.start is {training['start']!r}: a search varies what a run with a public start does not have",
            hint="leave training.start out of the searched federation; its settings hold for runs with --start none",
        )
    return {**tree, "training": {**training, "start": "none"}}


def _absolute(data: Mapping[str, Any], where: Path) -> dict[str, Any]:
    found = dict(data)
    if isinstance(found.get("dataset"), str):
        found["dataset"] = str(where / found["dataset"])
    if isinstance(found.get("hospital"), dict):
        found["hospital"] = {
            name: str(where / place) if isinstance(place, str) else place for name, place in found["hospital"].items()
        }
    return found
