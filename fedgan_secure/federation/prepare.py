"""From a request to a federation that is ready for its next round: data, identities, policy, models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgan_audits.facts import colluders_against_lying
from fedgan_audits.ledger import Ledger
from fedgan_audits.signing import public_keys
from fedgan_protocols import Journal, default_threshold
from fedgan_protocols.primitives import Identity
from fedgan_secure.data.pixels import golden_digest, refuse_other_preprocessing
from fedgan_secure.errors import InputError
from fedgan_secure.federation.class_weights import classes_taken
from fedgan_secure.federation.coordinator import Coordinator
from fedgan_secure.federation.drivers.local import parse_drop
from fedgan_secure.federation.families.adapted_policy import KNOWN_STARTS, adapted_terms, start_of
from fedgan_secure.federation.families.choosing import family_of, refuse_other_dimension
from fedgan_secure.federation.fedavg import model_digest
from fedgan_secure.federation.hospital import Hospital
from fedgan_secure.federation.sources import Source, names_of, read
from fedgan_secure.federation.start_model import StartBundle, start_vector
from fedgan_secure.models import ModelSpec
from fedgan_secure.moments import AnyStart
from fedgan_secure.policy import (
    CoordinatorEntry,
    DataPolicy,
    FederationPolicy,
    Flags,
    HospitalEntry,
    InitialModel,
    MechanismPolicy,
    Recipe,
    RunSettings,
    TrainingSection,
    TrainingSettings,
    cohort_of,
    hospital_mechanism,
    mechanism_and_ring,
    mechanism_fields,
    own_cap,
    recipe_of,
    rounds_of,
)
from fedgan_secure.privacy import entropy_for
from fedgan_secure.site import (
    KeyPlace,
    declarations,
    load_identity,
    load_secret,
    refuse_foreign_cohort,
    refuse_foreign_declarations,
    refuse_revoked,
)
from fedgan_secure.starts import PublicStart, refuse_shared_images
from fedgan_secure.storage import RunDirectory, SiteDirectory, explain_disk, private_folder, write_bytes

TRAINED = ("rounds", "mechanism", "ring", "model", "training")
"""What a policy says of the training, by the names that `AdaptedTerms` has, too."""
Progress = Callable[[str, int, int], None]
Hook = Callable[[], None]


def _nothing() -> None:
    """The default hook."""


@dataclass(frozen=True)
class Request:
    """One invocation of `run`.

    Attributes:
        settings: what is asked for, validated.
        output: the run's folder, new.
        site_dir: where hospitals keep identity, ledger and cache over many runs, or None (inside the run).
        init_from: a run whose released model is the start, or None.
        drops: rehearsed drop-outs, as given.
        insecure_seed: fixes all randomness (tests only), or None.
        patients_of: lasting sites of the same hospitals, whose pseudonyms and withdrawals count in this run, too.
        init_trust: whose keys or which digest says that `init_from` is what it is taken for (`transfer.read_initial`).
        public_pretraining: which public images `init_from` was trained on, as the operator declares, or None.
    """

    settings: RunSettings
    output: Path
    site_dir: Path | None = None
    init_from: Path | None = None
    init_trust: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    insecure_seed: int | None = None
    public_pretraining: str | None = None
    patients_of: Path | None = None


@dataclass
class Federation:
    """Everything of a run in one process: the coordinator, the hospitals, and what they hold.

    `classes`: of a run that starts from another one's model, the classes taken over by name, and those drawn anew.
    """

    run: RunDirectory
    settings: RunSettings
    policy: FederationPolicy
    coordinator: Coordinator
    hospitals: dict[str, Hospital]
    source: Source
    drops: tuple[str, ...]
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def close(self) -> None:
        """Close every hospital's ledger and journal."""
        for hospital in self.hospitals.values():
            hospital.close()


def start(request: Request, progress: Progress | None, before_models: Hook = _nothing) -> Federation:
    """Prepare a new run; what was made so far is removed where preparing fails.

    `before_models` is called when the data have been read, just before TensorFlow is needed.

    Raises:
        InputError: the data, a setting or the output folder is wrong.
        BudgetRefused, UnreachableTarget: the budget cannot be met.
    """
    settings = request.settings
    names = names_of(settings)
    if request.insecure_seed is not None and request.site_dir is not None:
        raise InputError(
            "--insecure-deterministic with --site-dir: repeatable keys and noise would stay in a lasting site",
            hint="leave one of the two out",
        )
    check_before_reading(settings, names, request.drops)
    existed = request.output.exists()
    run = RunDirectory.create(request.output)
    try:
        return _start(request, run, names, progress, before_models)
    except BaseException:
        if not run.policy.exists():
            _discard(run.root, keep_root=existed)
        raise


def resume(root: Path, progress: Progress | None, before_models: Hook = _nothing) -> Federation:
    """Take up a run where its files say it stands.

    Raises:
        InputError: not a run, one that has ended, or one whose data have changed.
    """
    run = RunDirectory.open(root)
    info = run.read_info()
    settings = RunSettings.merged(dict(info["settings"]), {}, source=str(run.info))  # type: ignore[call-overload]
    try:
        policy = FederationPolicy.parse(run.policy.read_bytes())
    except OSError as error:
        raise InputError(
            f"{run.policy} cannot be read: the run was interrupted before it was set up",
            hint="nothing was spent; remove the folder and start the run again",
        ) from error
    site_dir = Path(str(info["site_dir"])) if info.get("site_dir") else None
    patients_of = Path(str(info["patients_of"])) if info.get("patients_of") else None
    sites = _sites(run, site_dir, policy.names, policy.run_id, patients_of)
    source = read(settings, run, sites, progress, unknown_ok=True)
    before_models()
    if source.classes != policy.data.classes:
        raise InputError(
            f"the data now have {source.classes} classes, the policy says {policy.data.classes}",
            hint="restore the data that the run was started with",
        )
    seed = info.get("insecure_seed")
    federation = _assemble(
        run, settings, policy, sites, source, site_dir=site_dir, insecure_seed=seed if isinstance(seed, int) else None,
        drops=tuple(str(item) for item in _list(info.get("drops"))), create=False,
        start=None if policy.start is None else start_of(settings, policy.data.preprocessing),
    )  # fmt: skip
    federation.coordinator.restore()
    return federation


def check_before_reading(settings: RunSettings, names: tuple[str, ...], drops: tuple[str, ...]) -> None:
    """Refuse what can be refused before hours of reading: thresholds, drop-outs, unreachable budgets."""
    threshold = settings.federation.threshold or default_threshold(len(names))
    if threshold > len(names):
        raise InputError(
            f"federation.threshold: {threshold} hospitals must finish a round, and there are {len(names)}",
            hint="lower --threshold or add hospitals",
        )
    if 2 * threshold <= len(names):
        raise InputError(
            f"federation.threshold: {threshold} of {len(names)}; expected more than half, so that no two groups can "
            "both finish a round",
            hint=f"leave it out for the default of {default_threshold(len(names))}",
        )
    for drop in drops:
        parse_drop(drop, names)
    shared = settings.privacy.noise_placement == "distributed"
    if shared and colluders_against_lying(len(names), threshold) < 1:
        raise InputError(
            f"privacy.noise_placement: distributed noise with a threshold of {threshold} of {len(names)} hospitals: no "
            "hospital may collude with the coordinator, and each can take its own noise out of the sum",
            hint=f"raise --threshold to {max(3, (len(names) + 3) // 2)} or more",
        )
    declared = settings.privacy.declared_patients
    if declared is None:
        return
    start = start_of(settings, None)
    if start is None:
        hospital_mechanism(settings, recipe_of(settings, declared), declared)
    else:
        adapted_terms(settings, start, declared, len(names), len(settings.data.label_names or start.label_names))


def _training_table(
    recipe: Recipe, section: TrainingSection, mechanism: MechanismPolicy, rounds: int
) -> dict[str, Any]:
    """The policy's `training` table: the recipe's constants under what the settings say, without the mechanism."""
    chosen = {
        "discriminator_learning_rate": section.discriminator_learning_rate,
        "generator_learning_rate": section.generator_learning_rate,
        "steps_per_generator_step": section.steps_per_generator_step,
    }
    fields = mechanism_fields(mechanism)
    constants = {"decay_steps": rounds * mechanism.steps_per_round, **recipe.constants}
    constants.update({key: value for key, value in chosen.items() if value is not None})
    table = TrainingSettings(**fields, **constants).to_json()
    return {key: value for key, value in table.items() if key not in fields}


def _start(
    request: Request, run: RunDirectory, names: tuple[str, ...], progress: Progress | None, before_models: Hook
) -> Federation:
    settings = request.settings
    run_entropy = entropy_for("run", insecure_seed=request.insecure_seed)
    run_id = run_entropy(16).hex()
    sites = _sites(run, request.site_dir, names, run_id, request.patients_of)
    if request.init_from is not None:
        before_models()
    given = start_bundle(request)
    initial = None if given is None else given.initial
    # A trial of a search runs after its charge: the search's own run is what says that a name is unknown.
    source = read(settings, run, sites, progress, unknown_ok=request.patients_of is not None)
    before_models()
    by_image = settings.data.unit == "image"
    sizes = [len(dataset) if by_image else dataset.patients for dataset in source.datasets.values()]
    declared, shaped = cohort_of(settings, sizes, phantoms=source.phantoms)
    public = start_of(settings, source.preprocessing, from_run=initial is not None)
    if public is None:
        trained = _from_seed(shaped, declared, len(names), source.classes)
    else:
        terms = adapted_terms(shaped, public, declared, len(names), source.classes)
        trained = {name: getattr(terms, name) for name in TRAINED} | {"average_decay": 0.0}
        trained |= {"start": terms.start, "release": terms.release}
    policy = FederationPolicy.build(
        run_id=run_id,
        coordinator=CoordinatorEntry(
            public_key=_coordinator_identity(run, request.site_dir, request.insecure_seed).public_key.hex()
        ),
        hospitals=tuple(
            HospitalEntry(name=name, public_key=_identity(sites[name], request.insecure_seed).public_key.hex())
            for name in names
        ),
        threshold=settings.federation.threshold or default_threshold(len(names)),
        spare_rounds=settings.federation.spare_rounds,
        data=DataPolicy(
            image_size=settings.data.image_size,
            channels=settings.data.channels,
            classes=source.classes,
            label_names=source.label_names,
            preprocessing=source.preprocessing,
            preprocessing_digest=golden_digest(source.preprocessing, settings.data.image_size, settings.data.channels),
            phantoms=source.phantoms,
            unit_remark=source.unit_remark,
        ),
        **trained,
        initial_model=InitialModel(
            seed=settings.seed,
            from_run=None if initial is None else initial.run_id,
            model_digest=None if initial is None else initial.digest,
            pretraining="none" if initial is None else initial.statement,
        ),
        flags=Flags(
            no_privacy=settings.privacy.no_privacy,
            insecure_deterministic=request.insecure_seed is not None,
            taken_from_data=source.taken_from_data,
        ),
        governance=declarations(settings, sites),
    )
    family = family_of(policy, public)
    vector = start_vector(policy, family, initial)
    policy = policy.starting_from(model_digest(family.layout.layout_hash, vector).hex())
    run.write_info(
        {
            "run_id": run_id,
            "status": "prepared",
            "settings": settings.resolved(KNOWN_STARTS).model_dump(mode="json", exclude_none=True),
            "site_dir": None if request.site_dir is None else str(request.site_dir.resolve()),
            "patients_of": None if request.patients_of is None else str(request.patients_of.resolve()),
            "drops": list(request.drops),
            "insecure_seed": request.insecure_seed,
        }
    )
    federation = _assemble(
        run,
        settings,
        policy,
        sites,
        source,
        site_dir=request.site_dir,
        insecure_seed=request.insecure_seed,
        drops=request.drops,
        create=True,
        start=public,
        bundle=given,
    )
    keys = {hospital.name: hospital.identity.private_key.public_key() for hospital in federation.hospitals.values()}
    with explain_disk(run.public):
        public_keys.publish_trust(
            run.public, {**keys, "coordinator": federation.coordinator.identity.private_key.public_key()}
        )
    federation.coordinator.begin(vector)
    write_bytes(run.policy, policy.canonical())
    if initial is None or not policy.data.label_names:
        return federation
    return replace(federation, classes=classes_taken(initial.label_names, policy.data.label_names))


def start_bundle(request: Request) -> StartBundle | None:
    """Return the bundle that a request names, for the coordinator and every hospital of one process; None without one.

    Raises:
        InputError: something is said of a bundle, and none is named.
    """
    if request.init_from is None:
        for option, given in (("--public-pretraining", request.public_pretraining), ("--trust", request.init_trust)):
            if given:
                raise InputError(f"{option} without --init-from: no other run is started from", hint="leave it out")
        return None
    no_privacy = request.settings.privacy.no_privacy
    return StartBundle(request.init_from, request.init_trust, no_privacy, request.public_pretraining)


def _assemble(
    run: RunDirectory,
    settings: RunSettings,
    policy: FederationPolicy,
    sites: dict[str, SiteDirectory],
    source: Source,
    *,
    site_dir: Path | None,
    insecure_seed: int | None,
    drops: tuple[str, ...],
    create: bool,
    start: AnyStart | None,
    bundle: StartBundle | None = None,
) -> Federation:
    if (insecure_seed is not None) != policy.flags.insecure_deterministic:
        raise InputError(
            "run.json and the policy disagree on whether randomness is repeatable",
            hint="restore run.json from a backup",
        )
    data = policy.data
    refuse_other_preprocessing(data.preprocessing_digest, data.preprocessing, data.image_size, data.channels)
    family = family_of(policy, start)
    refuse_other_dimension(policy, family)
    if isinstance(start, PublicStart):
        refuse_shared_images(start, source.datasets)
    hospitals: dict[str, Hospital] = {}
    for entry in policy.hospitals:
        site = sites[entry.name]
        identity = _identity(site, insecure_seed)
        refuse_revoked(KeyPlace.of(site.identity, entry.name))
        if identity.public_key.hex() != entry.public_key:
            raise InputError(
                f"hospital {entry.name}: the key in {site.identity} is not the one in the policy",
                hint="a run goes on only with the key it began with: after `keys rotate` start a new run; otherwise "
                "restore the identity that the run was started with",
            )
        refuse_foreign_declarations(policy, site, entry.name)
        if create:
            refuse_foreign_cohort(policy, source.datasets[entry.name], entry.name)
        hospitals[entry.name] = Hospital(
            site=site,
            identity=identity,
            ledger=_ledger(site, entry.name, create=create),
            dataset=source.datasets[entry.name],
            policy=policy,
            name=entry.name,
            cap=own_cap(site.settings, settings.privacy.epsilon_cap),
            findings=source.findings[entry.name],
            entropy=entropy_for(f"hospital/{entry.name}", insecure_seed=insecure_seed),
            journal=Journal(site.journal),
            start=start,
            bundle=bundle,
        )
        if create and bundle is not None:
            hospitals[entry.name].first_model()
    own = _coordinator_identity(run, site_dir, insecure_seed)
    if site_dir is not None:
        refuse_revoked(KeyPlace.of(site_dir / "coordinator" / "identity.pem", "coordinator"))
    if own.public_key.hex() != policy.coordinator.public_key:
        raise InputError(
            "the coordinator's key is not the one in the policy",
            hint="a run goes on only with the key it began with: after `keys rotate` start a new run; otherwise "
            "restore coordinator/identity.pem below the site directory from a backup",
        )
    coordinator = Coordinator(
        run,
        own,
        policy,
        family,
        entropy_for("coordinator", insecure_seed=insecure_seed),
    )
    return Federation(run, settings, policy, coordinator, hospitals, source, drops)


def _from_seed(settings: RunSettings, declared: int, hospitals: int, classes: int) -> dict[str, Any]:
    """What a policy says of a run without a public start: its networks and their training."""
    recipe = recipe_of(settings, declared)
    if settings.privacy.release_noise_multiplier is not None:
        raise InputError(
            "privacy.release_noise_multiplier: this run has no public start, so it has no release round",
            hint="leave it out, or name a start that fits the pictures (--start)",
        )
    rounds = rounds_of(settings, recipe) + settings.federation.spare_rounds
    spec = ModelSpec.default(settings.data.image_size, settings.data.channels, classes)
    if settings.training.latent_dim is not None:
        spec = replace(spec, latent_dim=settings.training.latent_dim)
    mechanism, ring = mechanism_and_ring(settings, recipe, declared, hospitals, spec)
    table = _training_table(recipe, settings.training, mechanism, rounds)
    own = {"rounds": rounds, "mechanism": mechanism, "ring": ring, "model": spec.to_json(), "training": table}
    return own | {"average_decay": recipe.average_decay}


def _ledger(site: SiteDirectory, name: str, *, create: bool) -> Ledger:
    """A hospital's ledger; one that is gone is never silently begun anew: what was spent would be lost.

    A lasting site in which a run has left anything has spent something, whatever its ledger says.
    """
    if create and site.lasting and not site.ledger.exists() and _has_run_before(site):
        raise InputError(
            f"hospital {name}: its ledger {site.ledger} is missing, and {site.root / 'runs'} has earlier runs that "
            "spent from it",
            hint="restore it from a backup: begun anew, it would forget what these patients were exposed to",
        )
    if not create and not site.ledger.exists():
        raise InputError(
            f"hospital {name}: its ledger {site.ledger} is missing, and it holds what was spent",
            hint="restore it from a backup; without it the run cannot go on",
        )
    return Ledger.open(site.ledger, hospital=name, create=create)


def _has_run_before(site: SiteDirectory) -> bool:
    others = (folder for folder in (site.root / "runs").glob("*") if folder != site.per_run)
    return any(path.is_file() for folder in others for path in folder.rglob("*"))


def _sites(
    run: RunDirectory, site_dir: Path | None, names: tuple[str, ...], run_id: str, patients_of: Path | None = None
) -> dict[str, SiteDirectory]:
    base = site_dir if site_dir is not None else run.sites
    with explain_disk(base):
        private_folder(base)
    made = {}
    for name in names:
        lasting = None if patients_of is None else patients_of / name
        made[name] = SiteDirectory(base / name, run_id, site_dir is not None, lasting).prepare()
        if lasting is not None and not made[name].pseudonym_secret.exists():
            secret = load_secret(private_folder(lasting) / made[name].pseudonym_secret.name)
            write_bytes(made[name].pseudonym_secret, secret, private=True)
    return made


def _identity(site: SiteDirectory, insecure_seed: int | None) -> Identity:
    name = f"identity/{site.root.name}"
    return load_identity(site.identity, entropy_for(name, insecure_seed=insecure_seed))


def _coordinator_identity(run: RunDirectory, site_dir: Path | None, insecure_seed: int | None) -> Identity:
    """The coordinator's key, which like a hospital's lasts over the runs of a site directory."""
    inside = run.sites / "coordinator"
    lasting = site_dir is not None and not (inside / "identity.pem").exists()
    folder = private_folder(site_dir / "coordinator" if site_dir is not None and lasting else inside)
    return load_identity(folder / "identity.pem", entropy_for("identity/coordinator", insecure_seed=insecure_seed))


def _discard(root: Path, *, keep_root: bool) -> None:
    for child in root.iterdir():
        shutil.rmtree(child, ignore_errors=True) if child.is_dir() else child.unlink()
    if not keep_root:
        root.rmdir()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
