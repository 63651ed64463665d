"""Reading reports of older schema versions: each step turns a predicate of one version into one of the next.

A published version is never changed: its JSON Schema stays in `schemas/` and a small run of it in `tests/vectors/`,
which has to verify with every later version of the software. A step works on plain JSON, adds what the newer form asks
for, and refuses what the older one did not have, so that nothing unknown rides along. Signatures and digests are over
the bytes as they were signed; a step never touches those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedgan_audits.canonical_json import EnvelopeError
from fedgan_audits.facts import self_tests

NOT_SAID = "A report of schema version 0 says nothing of withdrawals."
ONE_HOSPITAL = (
    "A report of schema version 0 declares nothing of patients in several hospitals: the figure is that of one."
)


def _from_0(predicate: dict[str, Any]) -> dict[str, Any]:
    """Version 1 says how many self-tests passed and which did not, what a withdrawal does and does not undo, and what a
    patient in as many hospitals as declared costs."""
    tests = {
        hospital["name"]: [(row["name"], row["outcome"]) for row in hospital["self_tests"]]
        for hospital in predicate["aggregation"]["participants"]
    }
    mechanism, incidents, composition = predicate["mechanism"], predicate["incidents"], predicate["composition"]
    privacy = predicate["privacy"]
    newer = {
        "incidents.withdrawals": "withdrawals" in incidents,
        "mechanism.rows.self_test_summary": any("self_test_summary" in row for row in mechanism["rows"]),
        "composition.declared_hospitals": any(name.startswith("declared_hospitals") for name in composition),
        "privacy.settings.hospitals_per_patient": "hospitals_per_patient" in privacy["settings"],
    }
    if any(newer.values()):
        found = ", ".join(name for name, there in newer.items() if there)
        raise EnvelopeError(f"schema: version 0 has no such field: {found}")
    rows = [{**row, "self_test_summary": self_tests.summary(tests[row["name"]])} for row in mechanism["rows"]]
    return {
        **predicate,
        "schema_version": "1",
        "mechanism": {**mechanism, "rows": rows},
        "incidents": {**incidents, "withdrawals": NOT_SAID},
        "privacy": {**privacy, "settings": {**privacy["settings"], "hospitals_per_patient": 1}},
        "composition": {
            **composition,
            "declared_hospitals": 1,
            "declared_hospitals_epsilon": privacy["epsilon"],
            "declared_hospitals_text": ONE_HOSPITAL,
        },
    }


def _from_1(predicate: dict[str, Any]) -> dict[str, Any]:
    """Version 2 says of a run whether it has a release round and a public start; before, none had."""
    privacy, data = predicate["privacy"], predicate["data"]
    settings, facts = privacy["settings"], data["facts"]
    newer = {"privacy.settings.release": "release" in settings, "data.facts.start": "start" in facts}
    if any(newer.values()):
        found = ", ".join(name for name, there in newer.items() if there)
        raise EnvelopeError(f"schema: version 1 has no such field: {found}")
    return {
        **predicate,
        "schema_version": "2",
        "privacy": {**privacy, "settings": {**settings, "release": None}},
        "data": {**data, "facts": {**facts, "start": ""}},
    }


def _from_2(predicate: dict[str, Any]) -> dict[str, Any]:
    """Version 3 says of each hospital what counts against its cap, and what target and cap leave, each for itself."""
    composition = predicate["composition"]
    newer = ("held", "left_of_target", "left_of_cap")
    found = sorted({name for row in composition["hospitals"] for name in newer if name in row})
    if found:
        raise EnvelopeError(f"schema: version 2 has no such field: composition.hospitals.{', '.join(found)}")
    rows = [{**row, **dict.fromkeys(newer)} for row in composition["hospitals"]]
    return {**predicate, "schema_version": "3", "composition": {**composition, "hospitals": rows}}


STEPS: Mapping[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "0": ("1", _from_0),
    "1": ("2", _from_1),
    "2": ("3", _from_2),
}
"""Version -> the next version and the step that leads to it."""
OLDER = tuple(STEPS)


def upgraded(predicate: Any, version: str) -> Any:
    """A predicate of `version`, as the statement's type names it, in the form of the present version.

    Raises EnvelopeError where the predicate is not what that version wrote.
    """
    while version in STEPS:
        following, step = STEPS[version]
        if not isinstance(predicate, dict) or predicate.get("schema_version") != version:
            raise EnvelopeError(f"schema: schema_version: expected {version}, as the statement's type says")
        try:
            predicate = step(predicate)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise EnvelopeError(f"schema: not a report of version {version} ({type(error).__name__})") from None
        version = following
    return predicate
