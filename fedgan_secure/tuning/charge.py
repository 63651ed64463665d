"""What a search on patients costs, and its reservation in every hospital's ledger before the first trial."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_audits.accounting import SearchMechanism, SearchTerms, TrialSetting, accountant
from fedgan_audits.ledger import Ledger
from fedgan_audits.report import figures
from fedgan_secure.errors import InputError
from fedgan_secure.federation import names_of
from fedgan_secure.policy import RunSettings, hospital_mechanism, own_cap, recipe_of, rounds_of
from fedgan_secure.tuning import space as spaces
from fedgan_secure.tuning.experiment import SHAPES, Experiment
from fedgan_secure.tuning.space import Value

SEARCH_ROUND = 1
"""A search is one reservation: the ledger's own rule, one for each run and round, forbids a second charge."""


@dataclass(frozen=True)
class TrialCost:
    """What one run of one setting does: its mechanism, and the clip norm, delta and unit that go with it."""

    setting: TrialSetting
    l2_clip_norm: float
    delta: float
    unit: str
    images_per_patient: int


@dataclass(frozen=True)
class Charge:
    """The whole search as the ledgers hold it.

    Attributes:
        mechanism: reserved at every hospital.
        delta: of the figures.
        hospitals: who pays.
    """

    mechanism: SearchMechanism
    delta: float
    hospitals: tuple[str, ...]

    @property
    def epsilon(self) -> float:
        """The proved epsilon of the search by itself, for one unit in one hospital."""
        return accountant.epsilon([self.mechanism], self.delta)

    def figures(self) -> dict[str, Any]:
        """JSON-ready: epsilon and delta, epsilon for a patient of two hospitals, and of several images by their number.

        The images are listed where the unit is the image: else a patient is one unit, whatever the number.
        """
        paid = [self.mechanism]
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "two_hospitals": accountant.epsilon_two_hospitals(paid, self.delta) if len(self.hospitals) > 1 else None,
            "several_images": dict(figures.several_images(paid, self.delta)),
        }

    def sentence(self) -> str:
        """What is charged and by which rule, for people."""
        terms = self.mechanism.search
        cost = f"epsilon {accountant.round_up(self.epsilon)} at delta {self.delta:g}"
        if terms.charge == "winner_alone":
            return (
                f"This search is charged {cost} at every hospital, for releasing its winner alone (Papernot "
                f"and Steinke 2021, {terms.mean_trials:g} trials on average, their number secret). It holds against "
                "whoever sees the winner and nothing else, not against whoever watches the search."
            )
        how = "all of its trials" if terms.charge == "each_once" else "any of its settings in every trial"
        return (
            f"This search is charged {cost} at every hospital: {terms.trials} trials, composed, for {how}. Every trial "
            "may be shown."
        )


def trial_cost(settings: RunSettings, seeds: int) -> TrialCost:
    """What `seeds` runs of one setting cost, from public facts alone.

    Raises:
        InputError: the cohort is not declared, there is no noise, or noise is shared.
        UnreachableTarget: no noise reaches the epsilon of the setting.
    """
    if settings.privacy.declared_patients is None:
        raise InputError(
            "privacy.declared_patients is not declared, and a search on patients is charged before the data are read",
            hint="declare the public nominal cohort of a hospital in the federation's settings",
        )
    if settings.privacy.no_privacy:
        raise InputError(
            "privacy.no_privacy: a search on patients without noise has no bound at all",
            hint="search with noise, or on phantoms",
        )
    if settings.privacy.noise_placement != "per_hospital":
        raise InputError(
            "privacy.noise_placement = distributed: what a search on patients costs is proved for per_hospital only",
            hint="search on phantoms, or with per_hospital noise",
        )
    recipe = recipe_of(settings, settings.privacy.declared_patients)
    policy = hospital_mechanism(settings, recipe, settings.privacy.declared_patients)
    rounds = rounds_of(settings, recipe) + settings.federation.spare_rounds
    return TrialCost(
        setting=TrialSetting(
            sampling_probability=policy.sampling_probability,
            noise_multiplier=policy.noise_multiplier,
            steps=policy.steps_per_round * rounds * seeds,
        ),
        l2_clip_norm=policy.l2_clip_norm,
        delta=policy.delta,
        unit=policy.unit,
        images_per_patient=policy.images_per_patient,
    )


def charge_of(experiment: Experiment, planned: Sequence[Mapping[str, Value]] | None) -> Charge:
    """The charge of a search on patients.

    Args:
        experiment: with trains_on = patients.
        planned: the settings of a grid or a random search that releases everything, fixed beforehand; else None, and
            the charge is for whatever may come of the space.

    Raises:
        InputError, UnreachableTarget: as trial_cost, or a space whose settings cannot be listed.
    """
    search = experiment.search
    settings = spaces.product(experiment.parsed) if planned is None else list(planned)
    found: dict[tuple[tuple[str, Value], ...], TrialCost] = {}
    for setting in settings:
        key = tuple(sorted(setting.items()))
        if key not in found:
            found[key] = trial_cost(experiment.trial_settings(setting, experiment.seed), search.seeds)
    costs = [found[tuple(sorted(setting.items()))] for setting in settings]
    trials = tuple(cost.setting for cost in costs)
    if experiment.winner_alone:
        terms = SearchTerms(
            charge="winner_alone",
            settings=tuple(sorted(set(trials), key=repr)),
            mean_trials=search.mean_trials,
            shape=SHAPES[search.distribution],
        )
    elif planned is None:
        terms = SearchTerms(charge="any_of", settings=tuple(sorted(set(trials), key=repr)), trials=experiment.trials)
    else:
        terms = SearchTerms(charge="each_once", settings=trials, trials=len(trials))
    mechanism = SearchMechanism.of(
        terms,
        l2_clip_norm=max(cost.l2_clip_norm for cost in costs),
        unit="image" if costs[0].unit == "image" else "patient",
        images_per_patient=max(cost.images_per_patient for cost in costs),
    )
    return Charge(mechanism, min(cost.delta for cost in costs), names_of(experiment.settings_of({})))


def search_run_id(search_id: str) -> str:
    """How a search is called in the ledgers."""
    return f"search-{search_id}"


def reserve(experiment: Experiment, charge: Charge, search_id: str) -> None:
    """Reserve the whole search at every hospital that has not done so: on return it is on every disk.

    Every hospital is asked before any of them pays. A second call reserves nothing twice.

    Raises:
        BudgetRefused (exit code 3): a hospital's cap does not allow it; nobody was charged.
        LedgerError, InputError: a ledger cannot be used.
    """
    if experiment.patients is None:
        raise InputError("only a search on patients reserves a budget", hint="set search.trains_on = patients")
    sites, run_id = experiment.patients.site_dir, search_run_id(search_id)
    caps = {name: _cap(experiment, sites / name) for name in charge.hospitals}
    ledgers = [_open(sites / name, name) for name in charge.hospitals]
    try:
        unpaid = [ledger for ledger in ledgers if SEARCH_ROUND not in ledger.reservations(run_id)]
        for ledger in unpaid:
            cap = caps[ledger.hospital]
            refusal = ledger.refusal(run_id, SEARCH_ROUND, charge.mechanism, charge.delta, cap)
            if refusal is not None:
                ledger.reserve(run_id, SEARCH_ROUND, charge.mechanism, charge.delta, cap)  # keeps that it refused
                raise refusal
        for ledger in unpaid:
            ledger.reserve(run_id, SEARCH_ROUND, charge.mechanism, charge.delta, caps[ledger.hospital])
        for ledger in ledgers:
            paid = [entry for entry in ledger.entries() if entry.kind == "reserved" and entry.run_id == run_id]
            if any((entry.mechanism, entry.facts["delta"]) != (charge.mechanism, charge.delta) for entry in paid):
                raise InputError(
                    f"hospital {ledger.hospital}: its ledger holds another charge than this search's settings make",
                    hint="the search's files were changed; begin a new search",
                )
    finally:
        for ledger in ledgers:
            ledger.close()


def refusal(experiment: Experiment, charge: Charge) -> Exception | None:
    """What `reserve` would raise because of a cap, or None; nothing is written, and no ledger is made."""
    if experiment.patients is None:
        return None
    with tempfile.TemporaryDirectory(prefix="fedgan-secure-") as empty:
        for name in charge.hospitals:
            cap = _cap(experiment, experiment.patients.site_dir / name)
            path = experiment.patients.site_dir / name / "ledger.sqlite"
            there = path.exists()
            path = path if there else Path(empty) / f"{name}.sqlite"
            with Ledger.open(path, hospital=name, create=not there, read_only=there) as ledger:
                found = ledger.refusal("search-to-come", SEARCH_ROUND, charge.mechanism, charge.delta, cap)
            if found is not None:
                return found
    return None


def _cap(experiment: Experiment, site: Path) -> float | None:
    """The cap of the hospital whose site it is, as it and the federation set it; its ledger may hold a smaller one."""
    return own_cap(site / "hospital.toml", experiment.settings_of({}).privacy.epsilon_cap)


def _open(site: Path, name: str) -> Ledger:
    site.mkdir(parents=True, exist_ok=True)
    site.chmod(0o700)
    return Ledger.open(site / "ledger.sqlite", hospital=name, create=True)
