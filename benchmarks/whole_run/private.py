"""A whole run of the product, as `fedgan-secure run` makes it, and plain FedAvg between its rounds.

The run is `federation.prepare.start` and `federation.run.carry_on`, untouched: reservations, cryptography, journal,
ledger, accountant, reports, reviews, signatures, manifest. When a round has been published its plain counterpart is
run, with the run's watch stopped, so that what else the machine does hits both sides alike.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgan_audits.accounting import accountant
from fedgan_audits.publishing import manifest
from fedgan_audits.publishing import round as bundle
from fedgan_audits.signing import envelope
from fedgan_protocols.journal import Journal
from fedgan_protocols.primitives.quantization import FixedPoint
from fedgan_protocols.session import ClientSession, ServerSession
from fedgan_secure import synthesis
from fedgan_secure.data.phantoms.phantoms import GRADES, PhantomSettings, write_hospitals
from fedgan_secure.federation import coordinator, hospital, prepare
from fedgan_secure.federation import run as run_module
from fedgan_secure.federation.prepare import Request
from fedgan_secure.policy.models import model_of, training_of
from fedgan_secure.policy.settings import RunSettings
from fedgan_secure.privacy.integer_noise import DiscreteGaussian
from fedgan_secure.privacy.noise import GaussianStream
from fedgan_secure.training import distributed_training, training
from fedgan_secure.training.batches import PatientBatches

from . import plain
from .causes import BUILDING, REST, Causes, Charge, Compiled, Spent, charged
from .plain import PlainFederation

DATA = "reading images"
NOISE = "noise"
AGGREGATION = "secure aggregation"
JOURNAL = "journal"
LEDGER = "ledger"
ACCOUNTANT = "accountant"
REPORT = "reports, pages, signatures"
REVIEW = "the hospitals' reviews"
FILES = "durable files"
ANNEX = "confidential annexes"
SELF_TESTS = "self-tests of the mechanism"

PLACES: tuple[Charge | Compiled, ...] = (
    Charge(prepare, "read", DATA),
    Compiled(
        training.CompiledNetworks,
        dict.fromkeys(("discriminator_gradient", "descend", "generator_step", "draw"), plain.STEPS),
    ),
    Compiled(distributed_training.RealTerm, {"sum": plain.STEPS}),
    Compiled(distributed_training.SharedOptimiser, {"_discriminator_step": plain.STEPS}),
    Charge(training.LocalTrainer, "train", plain.WEIGHTS),
    Charge(distributed_training.SumTrainer, "step", plain.WEIGHTS),
    Charge(distributed_training.SumTrainer, "begin", plain.WEIGHTS),
    Charge(distributed_training.SharedOptimiser, "step", plain.WEIGHTS),
    *(Charge(training.LocalTrainer, name, SELF_TESTS) for name in ("_observe", "_probe")),
    *(Charge(distributed_training.SumTrainer, name, SELF_TESTS) for name in ("_observe", "_probe")),
    Charge(PatientBatches, "_batch", plain.BATCHES),
    Charge(GaussianStream, "normal", NOISE),
    Charge(DiscreteGaussian, "draw", NOISE),
    *(Charge(ServerSession, name, AGGREGATION) for name in ("__init__", "receive", "result", "transcript_so_far")),
    *(Charge(ClientSession, name, AGGREGATION) for name in ("__init__", "handle", "provide_input")),
    *(Charge(FixedPoint, name, AGGREGATION) for name in ("encode", "decode_sum", "count_clamped")),
    Charge(hospital, "model_digest", AGGREGATION),
    Charge(hospital.Hospital, "open_session", AGGREGATION),
    Charge(Journal, "record", JOURNAL),
    *(Charge(hospital.Ledger, name, LEDGER) for name in ("reserve", "record", "refusal", "entries")),
    *(
        Charge(accountant, name, ACCOUNTANT)
        for name in (
            "epsilon", "epsilon_rdp", "epsilon_profile", "mu_gdp", "epsilon_two_hospitals", "epsilon_k_images",
            "colluder_figures", "calibrate_noise_multiplier", "calibrate",
        )
    ),
    Charge(run_module, "spent_of", ACCOUNTANT),
    Charge(coordinator.Coordinator, "apply", plain.AVERAGING),
    Charge(synthesis, "model_files", plain.KEEPING),
    Charge(synthesis, "sample_sheet", plain.KEEPING),
    Charge(run_module, "build_round", REPORT),
    Charge(run_module, "record_of", REPORT),
    Charge(bundle, "publish_round", REPORT),
    Charge(envelope, "sign", REPORT),
    Charge(manifest, "draft_manifest", REPORT),
    Charge(manifest, "publish_manifest", REPORT),
    Charge(hospital.Hospital, "review", REVIEW),
    Charge(hospital.Hospital, "sign", REVIEW),
    Charge(hospital.Hospital, "write_annex", ANNEX),
    *(Charge(coordinator, name, FILES) for name in ("write_bytes", "write_array", "write_json", "read_array")),
    Charge(hospital.Hospital, "finish_round", FILES),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How large a run is; steps None: as many a round as the defaults for the image size say."""

    image_size: int
    patients: int
    hospitals: int
    rounds: int
    steps: int | None = None


class Turns:
    """A run's display that hands the turn over whenever a round has been published."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self._turn = turn

    def update(self, task: str, done: int, total: int) -> None:
        """Progress inside a round: nothing is shown."""

    def note(self, text: str) -> None:
        """A line for the operator."""
        if re.match(r"round \d+ of \d+: ", text):
            self._turn()


def draw(folder: Path, size: Size) -> dict[str, Path]:
    """Fundus phantoms in a folder for every hospital."""
    names = [f"hospital-{number + 1}" for number in range(size.hospitals)]
    return write_hospitals(folder, names, PhantomSettings(size.patients, size.image_size))


def settings_of(size: Size, placement: str, folders: dict[str, Path]) -> RunSettings:
    """What would be asked for on the command line: the defaults on these folders, all public settings declared."""
    wanted: dict[str, Any] = {
        "federation.rounds": size.rounds,
        "data.hospital": {name: str(place) for name, place in folders.items()},
        "data.layout": "dicom",
        "data.preprocessing": "fundus-crop/1",
        "data.label_names": GRADES,
        "data.image_size": size.image_size,
        "data.images_per_patient": 1,
        "privacy.declared_patients": size.patients,
        "privacy.noise_placement": placement,
    }
    if size.steps is not None:
        wanted["federation.steps_per_round"] = size.steps
    return RunSettings.merged({}, wanted)


def measure(size: Size, placement: str, folders: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Run both sides in turn and compare them.

    Raises:
        RuntimeError: the run did not end well, or the two sides did not make the same steps.
    """
    accountant.clear_caches()
    training.compiled_networks.cache_clear()
    private, baseline = Causes(whole=frozenset({SELF_TESTS})), Causes()
    rounds: list[tuple[Spent, Spent]] = []
    with charged(private, PLACES):
        with private.running():
            federation = prepare.start(Request(settings_of(size, placement, folders), folder / "run"), None)
        setup = private.take()
        policy, settings = federation.policy, training_of(federation.policy)
        batch = round(settings.expected_batch_size * settings.images_per_patient)
        with baseline.running():
            other = PlainFederation(
                model_of(policy),
                settings,
                federation.source.datasets,
                baseline,
                folder,
                steps_per_round=policy.mechanism.steps_per_round,
                batch=batch,
                average_decay=policy.average_decay,
                label_names=policy.data.label_names,
                start=federation.coordinator.vector,
            )
        ends = [(_since(private, Spent()), _since(baseline, Spent()))]

        def turn() -> None:
            with private.paused(), baseline.running():
                other.round()
            ends.append((private.total(), baseline.total()))
            rounds.append((_less(ends[-1][0], ends[-2][0]), _less(ends[-1][1], ends[-2][1])))

        try:
            with private.running():
                outcome = run_module.carry_on(federation, Turns(turn))
        finally:
            federation.close()
    expected = policy.rounds * policy.mechanism.steps_per_round * len(policy.hospitals)
    if outcome.status != "complete" or len(rounds) != policy.rounds or other.steps != expected:
        raise RuntimeError(
            f"{outcome.reason}; {len(rounds)} rounds and {other.steps} of {expected} steps were compared"
        )
    if private.spent[plain.BATCHES].entered != expected:
        raise RuntimeError(f"the run made {private.spent[plain.BATCHES].entered} steps, the baseline {expected}")
    return {
        "placement": placement,
        "image_size": size.image_size,
        "hospitals": len(policy.hospitals),
        "rounds": policy.rounds,
        "steps_per_round": policy.mechanism.steps_per_round,
        "real_images_per_step": batch,
        "generated_images_per_step": settings.fake_batch_size,
        "parameters": federation.coordinator.layout.size,
        "noise_multiplier": policy.mechanism.noise_multiplier,
        "epsilon": outcome.epsilons,
        **_compared(setup, private, baseline, rounds),
    }


def _since(causes: Causes, before: Spent) -> Spent:
    return _less(causes.total(), before)


def _less(now: Spent, before: Spent) -> Spent:
    return Spent(now.wall - before.wall, now.processor - before.processor, now.entered - before.entered)


def _compared(
    setup: dict[str, Spent], private: Causes, baseline: Causes, rounds: list[tuple[Spent, Spent]]
) -> dict[str, Any]:
    """Ratios, with and without what is done once, and the split by cause."""
    data = setup.pop(DATA, Spent())
    preparing = Spent()
    for entry in setup.values():
        preparing.add(entry)
    start = Spent()
    for entry in (preparing, private.spent.get(BUILDING, Spent())):
        start.add(entry)
    whole = private.total()
    whole.add(preparing)
    plain_whole, plain_start = baseline.total(), baseline.spent.get(BUILDING, Spent())
    found: dict[str, Any] = {}
    for key, clock in (("", "wall"), ("_processor", "processor")):
        ours, theirs = getattr(whole, clock), getattr(plain_whole, clock)
        once, plain_once = getattr(start, clock), getattr(plain_start, clock)
        found[f"ratio{key}"] = ours / theirs
        found[f"ratio_without_start{key}"] = (ours - once) / (theirs - plain_once)
        later = rounds[1:] or rounds
        found[f"ratio_of_later_rounds{key}"] = statistics.median(
            getattr(mine, clock) / getattr(plain_one, clock) for mine, plain_one in later
        )
        found[f"seconds{key}"] = {
            "private": ours,
            "plain": theirs,
            "private_start": once,
            "plain_start": plain_once,
            "reading_images": getattr(data, clock),
            "rounds": [[getattr(mine, clock), getattr(other, clock)] for mine, other in rounds],
        }
    found["preparing"] = {name: _row(entry) for name, entry in _sorted(setup)}
    found["causes"] = {
        name: {"private": _row(private.spent.get(name, Spent())), "plain": _row(baseline.spent.get(name, Spent()))}
        for name, _ in _sorted({**baseline.spent, **private.spent})
    }
    return found


def _sorted(spent: dict[str, Spent]) -> list[tuple[str, Spent]]:
    return sorted(spent.items(), key=lambda item: (item[0] == REST, -item[1].wall))


def _row(entry: Spent) -> dict[str, float]:
    return {"seconds": entry.wall, "processor_seconds": entry.processor, "entered": entry.entered}
