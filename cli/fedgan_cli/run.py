"""`fedgan-secure run`: a whole federation in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgan_cli import terminal
from fedgan_cli.schedule_text import schedule_line, spent_lines, start_values

if TYPE_CHECKING:
    from fedgan_secure.federation import Federation, Outcome


PLAIN_OPTIONS = {
    "dataset": "data.dataset",
    "hospitals": "federation.hospitals",
    "partition": "data.partition",
    "layout": "data.layout",
    "preprocessing": "data.preprocessing",
    "conditional": "data.conditional",
    "unit": "data.unit",
    "images_per_patient": "data.images_per_patient",
    "patient_pattern": "data.patient_pattern",
    "image_column": "data.image_column",
    "label_column": "data.label_column",
    "patient_column": "data.patient_column",
    "phantom_patients": "data.phantom_patients",
    "declared_patients": "privacy.declared_patients",
    "rounds": "federation.rounds",
    "steps_per_round": "federation.steps_per_round",
    "spare_rounds": "federation.spare_rounds",
    "threshold": "federation.threshold",
    "sampling_probability": "privacy.sampling_probability",
    "noise_multiplier": "privacy.noise_multiplier",
    "epsilon": "privacy.epsilon",
    "delta": "privacy.delta",
    "l2_clip_norm": "privacy.l2_clip_norm",
    "start": "training.start",
    "release_noise": "privacy.release_noise_multiplier",
    "noise_placement": "privacy.noise_placement",
    "epsilon_cap": "privacy.epsilon_cap",
    "hospitals_per_patient": "privacy.hospitals_per_patient",
    "seed": "seed",
}
FLAGS = {
    "unknown_ok": "data.exclude_unknown_ok",
    "no_privacy": "privacy.no_privacy",
    "allow_large_delta": "privacy.allow_large_delta",
}


@click.command(
    "run",
    epilog="""\b
Examples:
  fedgan-secure run
  fedgan-secure run federation.toml --epsilon 4
  fedgan-secure run --dataset eyepacs/ --hospitals 4 --partition by-label --declared-patients 75
  fedgan-secure run --hospital north=/data/north --hospital south=/data/south --hospital west=/data/west
  fedgan-secure run --resume runs/2026-01-31-1""",
)
@click.argument("federation", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--hospital", "hospital", multiple=True, metavar="NAME=PATH", help="One folder (or .npz) per hospital.")
@click.option("--dataset", type=click.Path(), help="One data set, split by patient over the hospitals.")
@click.option("--hospitals", type=int, help="How many hospitals share the data set, or draw phantoms. [default: 4]")
@click.option("--partition", metavar="KIND", help="iid, by-label or dirichlet:ALPHA. [default: iid]")
@click.option("--layout", metavar="NAME", help="auto, dicom, eyepacs, folders, npz, ... [default: auto]")
@click.option(
    "--preprocessing",
    metavar="NAME",
    help="auto (by the layout), fundus-crop/1, ct-abdomen-window/1, plain/1 or by-modality/1. [default: auto]",
)
@click.option("--image-size", type=click.Choice(["28", "64", "128"]), help="Pixels a side. [default: 64]")
@click.option("--channels", type=click.Choice(["1", "3"]), help="1 grey, 3 colour. [default: 3]")
@click.option("--conditional/--unconditional", default=None, help="Whether the generator takes a label.")
@click.option("--unit", type=click.Choice(["patient", "image"]), help="What epsilon protects. [default: patient]")
@click.option("--images-per-patient", type=int, help="Images of a patient used in one step. [default: 2; phantoms: 1]")
@click.option("--exclude-patient", multiple=True, metavar="ID", help="Leave a patient out (repeatable).")
@click.option("--unknown-ok", is_flag=True, help="Go on where nobody has the name of a patient to exclude.")
@click.option("--patient-pattern", metavar="REGEX", help="Names the patient in a file name: (?P<patient>...).")
@click.option("--image-column", metavar="NAME", help="Of a table of labels: the column that names the file.")
@click.option("--label-column", metavar="NAME", help="Of a table of labels: the column with the label.")
@click.option("--patient-column", metavar="NAME", help="Of a table of labels: the column that names the patient.")
@click.option("--phantom-patients", type=int, help="Patients drawn for each hospital when no data are given.")
@click.option("--declared-patients", type=int, help="Public nominal cohort of a hospital.")
@click.option("--rounds", type=int, help="Rounds of the fixed schedule. [default: 12]")
@click.option("--steps-per-round", type=int, help="Discriminator steps of a hospital in a round.")
@click.option("--sampling-probability", type=float, help="Chance of a patient to be in a step.")
@click.option("--noise-multiplier", type=float, help="Noise over clip norm (instead of --epsilon).")
@click.option("--epsilon", type=float, help="Target over the whole run; the noise follows. [default: 8]")
@click.option("--delta", type=float, help="[default: 1 / (10 x declared patients)]")
@click.option("--allow-large-delta", is_flag=True, help="Take a delta above 1/patients; every report says STOP.")
@click.option("--l2-clip-norm", type=float, help="Bound on one patient's gradient.")
@click.option("--spare-rounds", type=int, help="Extra rounds, paid for in advance, for attempts that fail.")
@click.option(
    "--noise-placement",
    type=click.Choice(["per_hospital", "distributed"]),
    help="Who adds the noise. [default: per_hospital]",
)
@click.option("--threshold", type=int, help="Hospitals that must finish a round. [default: floor(2n/3) + 1]")
@click.option("--no-privacy", is_flag=True, help="A researcher's baseline: epsilon unbounded, reports say so.")
@click.option(
    "--start",
    metavar="START",
    help="Public start to adapt: fundus64/1 or a file; moments: no start, one noisy sum of means and covariances; "
    "none: train from a seed. [default: where one fits]",
)
@click.option("--release-noise", type=float, help="Noise multiplier of the release round (runs with a public start).")
@click.option("--init-from", type=click.Path(path_type=Path), help="Start from another run's released model.")
@click.option(
    "--trust",
    "init_trust",
    multiple=True,
    metavar="KEYS|DIGEST",
    help="Whose run --init-from is: keys from elsewhere, or the digest of its newest report (repeatable).",
)
@click.option("--public-pretraining", metavar="WHICH", help="Declare which public images --init-from was trained on.")
@click.option("--drop", multiple=True, metavar="NAME@ROUND[:STAGE]", help="Rehearse a drop-out (repeatable).")
@click.option(
    "--site-dir", type=click.Path(path_type=Path), help="Keep identities, ledgers and caches here, over runs."
)
@click.option(
    "--hospitals-per-patient", type=int, help="Public bound: in how many hospitals a patient may be. [default: 1]"
)
@click.option("--epsilon-cap", type=float, help="Lowers every hospital's cap over its whole ledger.")
@click.option("--output", type=click.Path(path_type=Path), help="The run's folder, new. [default: runs/DATE-N]")
@click.option("--seed", type=int, help="Fixes initial weights, phantoms and partitions (never keys, masks or noise).")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run's next round.")
@click.option("--insecure-deterministic", is_flag=True, help="Tests only: repeatable keys and noise protect nobody.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, everything else on stderr.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_context
def command(ctx: click.Context, **options: Any) -> int:
    """Run a whole private federation and leave verifiable reports behind.

    Without arguments: four hospitals draw fundus phantoms, write them as DICOM, read them back and train a
    class-conditional generator together, with differential privacy, secure aggregation and signed reports. With a
    FEDERATION.toml, --dataset or --hospital: the same on your images. A value on the command line wins over the file.
    """
    import time

    begun = time.monotonic()
    if options["resume"] is not None:
        _only_resume(ctx)
    from fedgan_secure.federation import carry_on, resume

    with terminal.progress(quiet=options["quiet"]) as display:
        if options["resume"] is not None:
            root: Path = options["resume"]
            federation = resume(root, display.update, terminal.load_tensorflow)
        else:
            request = _request(options)
            root = request.output
            federation = _start(request, display)
        try:
            _announce(federation, display)
            outcome = carry_on(federation, display)
        except KeyboardInterrupt:
            display.close()
            terminal.note(f"interrupted; the state is saved. Go on with: fedgan-secure run --resume {root}")
            return 130
        finally:
            federation.close()
    if options["as_json"]:
        terminal.emit(_as_json(federation, outcome, root))
    else:
        _summary(federation, outcome, root, time.monotonic() - begun)
    return outcome.exit_code


def _start(request: Any, display: terminal.Progress) -> Federation:
    from fedgan_secure.federation import start

    return start(request, display.update, terminal.load_tensorflow)


def _only_resume(ctx: click.Context) -> None:
    """A resumed run has its settings; anything else on the line would be silently ignored."""
    allowed = {"resume", "as_json", "quiet"}
    from click.core import ParameterSource

    given = [
        name for name in ctx.params
        if name not in allowed and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]  # fmt: skip
    if given:
        raise click.UsageError(f"--resume takes the run's own settings; leave out {', '.join(sorted(given))}")


def _request(options: dict[str, Any]) -> Any:
    from fedgan_secure.federation import Request
    from fedgan_secure.policy import RunSettings
    from fedgan_secure.storage import default_run_folder

    overrides = {key: options[name] for name, key in PLAIN_OPTIONS.items() if options[name] is not None}
    overrides |= {key: True for name, key in FLAGS.items() if options[name]}
    for name in ("image_size", "channels"):
        if options[name] is not None:
            overrides[f"data.{name}"] = int(options[name])
    if options["exclude_patient"]:
        overrides["data.exclude_patient"] = list(options["exclude_patient"])
    if options["hospital"]:
        overrides["data.hospital"] = _hospitals(options["hospital"])
        overrides.pop("federation.hospitals", None)
    path = options["federation"]
    raw = {} if path is None else RunSettings.read(path)
    source = "the command line" if path is None else f"{path} and the command line"
    settings = RunSettings.merged(raw, overrides, source=source)
    return Request(
        settings=settings,
        output=options["output"] or default_run_folder(Path.cwd()),
        site_dir=options["site_dir"],
        init_from=options["init_from"],
        init_trust=tuple(options["init_trust"]),
        drops=tuple(options["drop"]),
        insecure_seed=settings.seed if options["insecure_deterministic"] else None,
        public_pretraining=options["public_pretraining"],
    )


def _hospitals(texts: tuple[str, ...]) -> dict[str, str]:
    """NAME=PATH, for every hospital one."""
    from fedgan_secure.errors import InputError

    folders: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not place:
            raise InputError(f"--hospital {text!r}: expected NAME=PATH", hint="for example --hospital north=/data")
        if name in folders:
            raise InputError(f"--hospital {name}: named twice", hint="give every hospital its own name")
        folders[name] = place
    return folders


SMALL = 64
BY_MODALITY = "by-modality/1"
EYES = (
    "where these DICOM files are colour photographs of eyes, --preprocessing fundus-crop/1 says so, and the public "
    "start of this version is adapted to them"
)
NO_START = (
    "no public start fits these pictures, so noise may drown what is trained from a seed; --start moments serves small "
    "pictures better (docs/quality.md), --start none leaves this remark out"
)


def _announce(federation: Federation, display: terminal.Progress) -> None:
    from fedgan_audits.facts import warnings

    policy = federation.policy
    display.note(schedule_line(policy))
    shared = next(iter(federation.source.findings.values())).get("shared data set")
    if shared is not None:
        display.note(f"data set: {_amount(policy.mechanism.unit, shared['patients'], shared['images'])}")
    for name, hospital in federation.hospitals.items():
        amount = _amount(policy.mechanism.unit, hospital.dataset.patients, len(hospital.dataset))
        aside = () if shared is not None else federation.source.findings[name].get("quarantined", ())
        display.note(f"hospital {name}: {amount}" + (f", {len(aside)} files set aside" if aside else ""))
    if not policy.flags.no_privacy:
        mechanism = policy.mechanism
        for text in warnings(mechanism.delta, (mechanism.declared_patients,), mechanism.unit):
            display.warn(text)
    unasked = federation.settings.training.start is None and policy.initial_model.pretraining == "none"
    if policy.start is None and unasked and policy.data.image_size <= SMALL:
        display.note(NO_START)
        if policy.data.preprocessing == BY_MODALITY and policy.data.image_size == SMALL:
            display.note(EYES)
    if federation.classes is not None:
        taken, fresh = (terminal.printable(", ".join(names)) or "none" for names in federation.classes)
        display.note(f"classes taken over by name from --init-from: {taken}; drawn anew: {fresh}")
    _left_out(federation, display)
    _in_two_hospitals(federation, display)
    _several_people(federation, display)
    _remarks(federation, display)


def _left_out(federation: Federation, display: terminal.Progress) -> None:
    """How many were asked to be left out, and how many were found: for the hospital's own eyes."""
    from fedgan_secure.site import standing

    asked = {"patients to exclude": federation.source.excluded}
    for name, hospital in federation.hospitals.items():
        told = standing(hospital.site.withdrawals)
        asked[f"hospital {name}: withdrawn patients"] = (told.asked, told.found or 0)
    for whose, (count, found) in asked.items():
        if found < count:
            display.warn(f"{whose}: asked {count}, found {found}; for a name that nobody has, nothing is left out")
        elif count:
            display.note(f"{whose}: asked {count}, found {found}")


def _in_two_hospitals(federation: Federation, display: terminal.Progress) -> None:
    """Whose images two hospitals hold, in numbers: for the hospitals' own eyes."""
    bound = federation.policy.mechanism.hospitals_per_patient
    for name, findings in federation.source.findings.items():
        for row in findings.get("equal_pixels_in_other_hospitals", ()):
            display.warn(
                f"hospital {name}: {row['images']} images of {len(row['patients'])} patients have the same pixels as "
                f"images of hospital {row['hospital']}; where these are the same people, epsilon for one hospital does "
                f"not hold for them (declared: {bound}; --hospitals-per-patient). Its annex lists their pseudonyms"
            )


def _several_people(federation: Federation, display: terminal.Progress) -> None:
    """How many identifiers stand for several people by the headers of their files: for the hospital's own eyes."""
    said: set[str] = set()
    for name, findings in federation.source.findings.items():
        found = findings.get("shared data set", findings)
        whose = "the data set" if found is not findings else f"hospital {name}"
        if (count := len(found.get("several_people", ()))) and whose not in said:
            said.add(whose)
            display.warn(
                f"{whose}: {count} identifiers stand for several people by their files' headers; epsilon does "
                "not hold for one of these people. `fedgan-secure data check` lists them; --exclude-patient leaves out"
            )


def _amount(unit: str, patients: int, images: int) -> str:
    return f"{images} images" if unit == "image" else f"{patients} patients, {images} images"


def _remarks(federation: Federation, display: terminal.Progress) -> None:
    """What the one operator should know of the data; it stays on this machine."""
    seen: set[str] = set()
    said: dict[str, None] = {}
    for name, findings in federation.source.findings.items():
        found = findings.get("shared data set", findings)
        whose = "the data set" if found is not findings else f"hospital {name}"
        said.update(dict.fromkeys(f"{whose}: {text}" for text in found.get("notes", ())))
        for path, reason in found.get("quarantined", ())[:5]:
            seen.add(f"set aside: {path}: {reason}")
        for pair in found.get("duplicates", ()):
            seen.add(f"same pixels under different patients: {', '.join(pair)}")
    for line in (*said, *sorted(seen)[:12]):
        display.note(line)


def _summary(federation: Federation, outcome: Outcome, root: Path, seconds: float) -> None:
    say = terminal.say
    policy = federation.policy
    public = root / "public"
    say()
    words = {"complete": "The run is complete", "refused": "The run ended: the budget refused a round",
             "aborted": "The run ended because rounds were aborted"}  # fmt: skip
    say(f"{words[outcome.status]} ({outcome.finished} of {policy.rounds} rounds, {seconds:.0f} s).")
    if outcome.status != "complete":
        say(f"  {outcome.reason}")
    unit = "patient" if policy.mechanism.unit == "patient" else "single image (not a patient: no patient is named)"
    say()
    say(f"Privacy of one {unit}, add or remove one, delta {policy.mechanism.delta:g}:")
    for line in spent_lines(outcome.spent, policy.mechanism.epsilon_target):
        say(f"  {line}")
    if outcome.several_hospitals is not None:
        count = policy.mechanism.hospitals_per_patient
        say(f"  a patient in {count} hospitals, the declared bound: epsilon {outcome.several_hospitals}")
    if policy.distributed is not None:
        shares = policy.distributed.shares
        others = "1 colluding hospital" if shares.colluders == 1 else f"{shares.colluders} colluding hospitals"
        say(f"  Noise is shared: this holds against the coordinator together with at most {others}.")
    if policy.flags.no_privacy:
        say("  Privacy was switched off: nothing about these patients is protected by noise.")
    if policy.flags.insecure_deterministic:
        say("  Keys and noise were repeatable (--insecure-deterministic): nothing above holds.")
    if outcome.score is not None and "sentence" in outcome.score:
        say()
        _score(outcome.score)
    say()
    say(f"Reports   {public / 'index.html'}")
    samples = sorted((public / "samples").glob("round-*.png"))
    if samples:
        say(f"Samples   {samples[-1]}")
        say(f"Generator {public / 'model' / 'generator.keras'}")
    say(f"Verify    fedgan-secure audit verify {root}")
    say("          (add --trust KEYS: the hospitals' public keys as you received them, not the run's own copies)")
    if outcome.status == "complete" and samples:
        say(f"Generate  fedgan-secure generate {root} --count 16 --format png --output images")


def _score(score: dict[str, Any]) -> None:
    """What a classifier learns from the pictures and how varied they are, on phantoms that nobody trained on."""
    from fedgan_secure.evaluation import lines

    terminal.say("The pictures, against fresh phantoms that nobody trained on:")
    for line in (score["sentence"], "", *lines(score)):
        terminal.say(f"  {line}".rstrip())


def _as_json(federation: Federation, outcome: Outcome, root: Path) -> dict[str, Any]:
    policy = federation.policy
    return {
        "run": str(root),
        "run_id": policy.run_id,
        "status": outcome.status,
        "reason": outcome.reason,
        "rounds_scheduled": policy.rounds,
        "rounds_finished": outcome.finished,
        "epsilon": outcome.epsilons,
        "spent": {name: spent.json() for name, spent in outcome.spent.items()},
        "hospitals_per_patient": policy.mechanism.hospitals_per_patient,
        "epsilon_declared_hospitals": outcome.several_hospitals,
        "delta": policy.mechanism.delta,
        "noise_multiplier": policy.mechanism.noise_multiplier,
        "noise_placement": policy.mechanism.noise_placement,
        "sampling_probability": policy.mechanism.sampling_probability,
        "unit": policy.mechanism.unit,
        **start_values(policy),
        "reports": str(root / "public" / "reports"),
        "score": outcome.score,
    }
