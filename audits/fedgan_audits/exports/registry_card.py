"""A draft entry for the Differential Privacy Deployments Registry, in its own vocabulary.

The registry (OpenDP, github.com/opendp/deployments-registry-data) keeps one record per deployment. Names and values of
the fields are those of its `schemas/deployments-schema.yaml` as of `SCHEMA`. What follows from the signed reports is
filled in; what only people know is left out and listed under `to_fill`, never guessed, so the record is a draft until
somebody has filled it in. JSON is YAML: the record can be saved as a YAML file as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedgan_audits.exports.verified_run import VerifiedRun
from fedgan_audits.facts import Assessment, RoundReport

SCHEMA = "schemas/deployments-schema.yaml at commit 057e5d81cf60150dd3307e0cf4504b957802fb3b"
TO_FILL = {
    "deployment.basic.data_curators": "Who publishes the model, and what kind of body it is.",
    "deployment.basic.data_product_region": "Which region the images are from, or whose law applies.",
    "deployment.basic.intended_use": "What the model is for.",
    "deployment.administrative.registry_authors": "Who fills in this record.",
}
"""Required by the registry, and nothing that a signed report holds unless somebody declared it."""


def _declared(report: RoundReport, topic: str) -> str | None:
    return next((entry.text for entry in report.governance.entries if entry.topic == topic), None)


def card(run: VerifiedRun) -> Mapping[str, Any]:
    """The draft record, the standing of each of its fields, what is left to fill in, and what it was made from."""
    last = run.last
    fields: dict[str, tuple[Any, Assessment]] = {
        **_basic(run),
        **_privacy(last),
        **_model(run),
        **_implementation(run),
        "deployment.administrative.status": ("Draft", "evidenced"),
        "deployment.administrative.tier": (3, "evidenced"),
    }
    record: dict[str, Any] = {"url_slug": f"fedgan-secure-{last.header.run_id}".lower()}
    for dotted, (value, _) in fields.items():
        place = record
        *above, leaf = dotted.split(".")
        for part in above:
            place = place.setdefault(part, {})
        place[leaf] = value
    return {
        "record": record,
        "standing": {dotted: standing for dotted, (_, standing) in fields.items()},
        "to_fill": {dotted: text for dotted, text in TO_FILL.items() if dotted not in fields},
        "vocabulary": {"registry": "github.com/opendp/deployments-registry-data", "schema": SCHEMA},
        "made_from": {
            "run_id": last.header.run_id,
            "rounds_reported": len(run.digests),
            "report_sha256": run.head,
            "policy_sha256": last.header.policy_sha256,
            "provisions_edition": last.controls.edition,
            "verification": run.statement(),
        },
    }


def _basic(run: VerifiedRun) -> dict[str, tuple[Any, Assessment]]:
    last, data = run.last, run.last.data.facts
    purpose = _declared(last, "Purpose")
    people = "drawn phantoms, no people" if data.synthetic_phantoms else "medical images"
    hospitals = len(last.aggregation.participants)
    found: dict[str, tuple[Any, Assessment]] = {
        "deployment.basic.name": (f"Image generator of federated run {last.header.run_id}", "evidenced"),
        "deployment.basic.description": (
            f"A generator of synthetic images, trained by {hospitals} hospitals together on {people} "
            f"({data.image_size} x {data.image_size} pixels), with fedgan-secure {last.header.software.fedgan_secure}. "
            f"{last.verdict.headline}",
            "evidenced",
        ),
        "deployment.basic.data_product_type": ("Machine learning model", "evidenced"),
        "deployment.basic.data_product_sector": ("Healthcare", "evidenced"),
        "deployment.basic.publication_date": (f"{run.facts.ended:%Y-%m-%d}", "evidenced"),
    }
    if purpose is not None:
        found["deployment.basic.intended_use"] = (purpose, "declared")
    return found


def _privacy(last: RoundReport) -> dict[str, tuple[Any, Assessment]]:
    settings, composition = last.privacy.settings, last.composition
    place = "deployment.privacy_loss"
    found: dict[str, tuple[Any, Assessment]] = {
        "deployment.dp_variant.variant_name": ("Approximate DP", "evidenced"),
        "deployment.dp_variant.data_domain": (
            f"Images of the layouts {', '.join(last.data.facts.layouts)}; labels "
            + ("used" if last.data.facts.conditional else "not used"),
            "declared",
        ),
        "deployment.dp_variant.unprotected_quantities": (
            "Times of rounds, which hospitals took part, and settings taken from the data: "
            + (", ".join(last.data.facts.taken_from_data) or "none"),
            "evidenced",
        ),
        f"{place}.privacy_unit": (f"One {settings.unit}", "evidenced"),
        f"{place}.privacy_unit_details": (
            f"Data sets are adjacent that differ by: {last.privacy.neighbouring_relation}, in one hospital. For a "
            f"patient known to two hospitals: epsilon {composition.two_hospitals}. {composition.several_images_text}",
            "evidenced",
        ),
        f"{place}.number_of_privacy_units": (
            sum(row.declared_patients for row in last.aggregation.participants),
            "declared",
        ),
        f"{place}.privacy_parameters_details": (
            f"{last.privacy.setting} Accountant: {last.privacy.accountant}. Further pairs that hold at once (delta: "
            f"epsilon): " + "; ".join(f"{point.delta}: {point.epsilon}" for point in last.privacy.profile)
            + ("" if last.privacy.epsilon != "unbounded" else ". Epsilon is unbounded: nothing protects the patients."),
            "evidenced",
        ),
    }  # fmt: skip
    if last.privacy.epsilon != "unbounded":
        found[f"{place}.privacy_parameters"] = (
            {"epsilon": float(last.privacy.epsilon), "delta": float(last.privacy.delta)},
            "evidenced",
        )
    return found


def _model(run: VerifiedRun) -> dict[str, tuple[Any, Assessment]]:
    last = run.last
    one = last.header.setting == "simulation"
    place = "deployment.deployment_model"
    return {
        f"{place}.model_name": ("Federated", "evidenced"),
        f"{place}.trust_assumptions": (
            " ".join((last.privacy.setting, *last.aggregation.adversary, *last.privacy.assumptions)),
            "evidenced",
        ),
        f"{place}.actors": (
            f"{len(last.aggregation.participants)} hospitals and a coordinator"
            + (", all run by one operator in one process" if one else ", on separate machines"),
            "evidenced",
        ),
        f"{place}.release_type": ("Many releases", "evidenced"),
        f"{place}.release_type_details": (
            f"The model is released after every round: {len(run.digests)} of {last.header.rounds_scheduled} scheduled "
            "rounds were reported. The figure covers all of them together.",
            "evidenced",
        ),
        f"{place}.data_source_type": ("Static", "evidenced"),
        f"{place}.access_type": ("Non-interactive", "evidenced"),
    }


def _release(last: RoundReport) -> str:
    """What the release round is; empty where there is none."""
    release = last.privacy.settings.release
    if release is None:
        return ""
    noise = release.mechanism
    return (
        f"Round 1 is one noisy sum over patients, each in it once: {release.statistic.rstrip('. ')}. "
        f"{release.dimension} numbers, norm {noise.l2_clip_norm:g}, noise multiplier {noise.noise_multiplier:g}. "
    )


def _steps(last: RoundReport) -> str:
    """What the steps of training are; empty where the run is a release alone."""
    release = last.privacy.settings.release
    if release is not None and last.header.rounds_scheduled == 1:
        return ""
    what = "the discriminator" if release is None else "small networks on public features, from round 2 on"
    return f"DP-SGD on {what}. Sampling: {last.mechanism.sampler}. Clipping: {last.mechanism.clipping}. "


def _fitted(last: RoundReport) -> str:
    """What the generator is made from without looking at patients again."""
    if last.privacy.settings.release is None:
        return "The generator is trained on the private discriminator alone."
    networks = " and to the private networks" if _steps(last) else ""
    return f"The generator's pictures are fitted to the released sum{networks} alone."


def _implementation(run: VerifiedRun) -> dict[str, tuple[Any, Assessment]]:
    last = run.last
    place = "deployment.implementation"
    return {
        f"{place}.preprocessing_and_hyperparameter_tuning": (" ".join(last.privacy.accesses_covered), "declared"),
        f"{place}.mechanisms": (
            f"{_release(last)}{_steps(last)}Noise: {last.mechanism.noise}. {last.mechanism.random_source}",
            "declared",
        ),
        f"{place}.composition": (
            "All mechanisms of all rounds and runs in a hospital's ledger are composed; epsilons are never added up.",
            "evidenced",
        ),
        f"{place}.post_processing": (_fitted(last), "declared"),
        f"{place}.additional_information": (
            f"Newest signed report, SHA-256 of its payload: {run.head}. Policy, SHA-256: {last.header.policy_sha256}. "
            f"What this does not show: {' '.join(last.verdict.does_not_show)}",
            "evidenced",
        ),
    }
