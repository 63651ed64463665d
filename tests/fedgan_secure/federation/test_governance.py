"""What people declare: from federation.toml and hospital.toml into the policy, and from there into section J."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedgan_audits.facts import binding
from fedgan_secure.errors import InputError
from fedgan_secure.policy.policy import Declaration, FederationPolicy
from fedgan_secure.policy.settings import TOPICS, GovernanceSection, HospitalSettings, RunSettings
from fedgan_secure.site.declared import declarations, refuse_foreign_declarations
from fedgan_secure.storage.site import SiteDirectory
from tests.fedgan_secure.federation.test_policy import fields

FEDERATION = """
[governance]
purpose = "Synthetic fundus images for teaching"
controllers = "North and South, jointly"
"""
NORTH = '[governance]\nlegal_basis = "GDPR Art. 9(2)(j)"\n'


def sites(folder: Path) -> dict[str, SiteDirectory]:
    made = {name: SiteDirectory(folder / name, "run", lasting=True) for name in ("north", "south", "west")}
    for site in made.values():
        site.root.mkdir(parents=True)
    (folder / "north" / "hospital.toml").write_text(NORTH)
    return made


def test_the_federation_comes_first_and_each_hospital_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(FEDERATION)
    settings = RunSettings.merged(RunSettings.read(tmp_path / "federation.toml"), {})
    assert declarations(settings, sites(tmp_path / "sites")) == (
        Declaration(topic="Controllers", text="North and South, jointly"),
        Declaration(topic="Purpose", text="Synthetic fundus images for teaching"),
        Declaration(topic="Legal basis (hospital north)", text="GDPR Art. 9(2)(j)"),
    )
    assert declarations(RunSettings.merged({}, {}), {}) == ()


def test_every_key_has_a_topic() -> None:
    assert set(GovernanceSection.model_fields) == set(TOPICS)


@pytest.mark.parametrize("text", ["", "  ", "x" * 2001, "a\x1b[2J", "We are HIPAA compliant", "anonymised data",
                                  "privacy is guaranteed", "tamper-proof", "a certified system"])  # fmt: skip
def test_claims_and_control_characters_are_no_declarations(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"governance\.purpose"):
        RunSettings.merged({"governance": {"purpose": text}}, {})
    (tmp_path / "hospital.toml").write_text(f"[governance]\npurpose = {json.dumps(text)}\n")
    with pytest.raises(InputError, match=r"hospital\.toml: governance\.purpose"):
        HospitalSettings.read(tmp_path / "hospital.toml")


def test_an_officer_may_be_a_compliance_officer() -> None:
    settings = RunSettings.merged(
        {"governance": {"controllers": "Compliance office, North; pseudonymised records"}}, {}
    )
    assert settings.governance.declared()[0][0] == "Controllers"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[governance]\nbasis = 'x'\n", "governance.basis"),
        ("[privacy]\nepsilon = 3\n", "privacy"),
        ("[governance\n", "is not TOML"),
        ("[governance]\npurpose = 3\n", "governance.purpose"),
    ],
)
def test_a_hospitals_file_says_what_is_wrong_with_it(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "hospital.toml").write_text(content)
    with pytest.raises(InputError) as caught:
        HospitalSettings.read(tmp_path / "hospital.toml")
    assert said in str(caught.value) and "hospital.toml" in str(caught.value) and caught.value.hint


def test_declarations_are_part_of_the_policy_and_of_its_digest() -> None:
    bare = FederationPolicy.build(**fields())
    declared = FederationPolicy.build(**fields(governance=(Declaration(topic="Purpose", text="Teaching"),)))
    assert bare.digest() != declared.digest()
    assert FederationPolicy.parse(declared.canonical()) == declared


def test_a_report_repeats_exactly_what_the_policy_declares(tmp_path_factory: Any) -> None:
    from fedgan_audits.facts.records import GovernanceEntry
    from tests.audits.conftest import Run

    run = Run(tmp_path_factory.mktemp("governed"))
    policy = {**json.loads(run.policy), "governance": [{"topic": "Purpose", "text": "Teaching"}]}
    entry = GovernanceEntry(topic="Purpose", text="Teaching")
    assert binding.differences(run.record(1, governance=(entry,)), policy) == []
    for wrong in ((), (entry, entry), (GovernanceEntry(topic="Purpose", text="Sale"),)):
        found = binding.differences(run.record(1, governance=wrong), policy)
        assert found == ["what was declared differs from the policy"]


def test_the_record_of_a_round_carries_the_declarations() -> None:
    from datetime import UTC, datetime

    from fedgan_secure.federation.rounds import RoundFacts, record_of

    policy = FederationPolicy.build(**fields(governance=(Declaration(topic="Purpose", text="Teaching"),)))
    from fedgan_audits.facts.records import HospitalFacts

    hospitals = [
        HospitalFacts(name=name, fingerprint="SHA256:" + "A" * 43, declared_patients=1, reserved=None, this_run=(),
                      ledger_lifetime="run", took_part=False)
        for name in policy.names
    ]  # fmt: skip
    record = record_of(
        policy, RoundFacts(1, datetime(2026, 1, 1, tzinfo=UTC), bytes(32)), hospitals, dimension=1, colluders=0,
        previous=None, coordinator_fingerprint="SHA256:" + "A" * 43, layouts=("dicom",), artefacts=(), incidents=(),
        missing={}, lock=None,
    )  # fmt: skip
    assert [(entry.topic, entry.text) for entry in record.governance] == [("Purpose", "Teaching")]


def test_a_hospital_refuses_a_policy_that_speaks_otherwise_in_its_name(tmp_path: Path) -> None:
    places = sites(tmp_path / "sites")
    policy = FederationPolicy.build(**fields(governance=declarations(RunSettings.merged({}, {}), places)))
    for name, site in places.items():
        refuse_foreign_declarations(policy, site, name)
    for changed in (NORTH.replace("9(2)(j)", "6(1)(e)"), "", NORTH + 'purpose = "More"\n'):
        (tmp_path / "sites" / "north" / "hospital.toml").write_text(changed)
        with pytest.raises(InputError, match=r"hospital north: .*\(hospital north\)") as caught:
            refuse_foreign_declarations(policy, places["north"], "north")
        assert "hospital.toml" in str(caught.value) and caught.value.hint
    refuse_foreign_declarations(policy, places["south"], "south")
