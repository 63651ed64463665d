"""Class names that are people: a folder for each patient, or a name, a number or a date of birth in a label.

Names of classes are published: in the policy, in reports, in the folders of generated pictures. A vocabulary that
nobody declared but the data is therefore refused where it looks like a list of people.
"""

from __future__ import annotations

import re

from fedgan_secure.data.reading.plans import Plan
from fedgan_secure.errors import InputError

FEWEST = 6
"""Fewer classes than this are not taken for people because each holds one patient: a first try has few pictures. Nor
are grades, whose names begin with a number of one or two digits."""
_YEAR_FIRST = r"(?:19|20)\d{2}[-._/ ]?[01]\d[-._/ ]?[0-3]\d"
_DAY_FIRST = r"[0-3]?\d[-._/][01]?\d[-._/](?:19|20)?\d{2}"
_DATE = re.compile(rf"(?<!\d)(?:{_YEAR_FIRST}|{_DAY_FIRST})(?!\d)")
_GRADE = re.compile(r"^\d{1,2}(?![^\W_])")
_NUMBER = re.compile(r"\d{5,}")
_SUBJECT = re.compile(
    r"(?!pt[0-4][a-d]?$)(?:sub|subj|subject|patient|pat|pt|case|mrn)(?:[-_ ]?\d[0-9a-z]*|[-_ ][0-9a-z]*\d[0-9a-z]*)",
    re.IGNORECASE,
)
"""Named like a subject of a study; pT1 to pT4 are stages of a tumour."""
_WORD = re.compile(r"[^\W_]+")
_SHORTEST = 3
FAMILY = 3
"""A word of more patients' identifiers than this is no name: COVID-1, COVID-2, ..."""


def refuse_people_as_classes(plan: Plan) -> None:
    """Refuse a vocabulary that the data alone brought and that looks like people.

    Args:
        plan: with its items, labels and label names; one whose vocabulary was declared, or is the layout's own, passes.

    Raises:
        InputError: why the classes look like people. No name is repeated: the message may be copied into a ticket.
    """
    if plan.labels_fixed or not plan.label_names:
        return
    dated = [name for name in plan.label_names if _DATE.search(name) or _NUMBER.search(name)]
    subjects = [name for name in plan.label_names if _SUBJECT.fullmatch(name.strip())]
    single = one_patient_each(plan)
    why = None
    if dated:
        why = f"{len(dated)} of them hold a date or a number of five digits or more"
    elif subjects and 2 * len(subjects) > len(plan.label_names):
        why = f"{len(subjects)} of them are named like subjects of a study"
    elif single:
        why = f"{single} of them hold one {'patient' if plan.names_patient else 'picture'} alone"
    elif named := _named(plan):
        why = f"{named} of them hold a word that is also in a patient's identifier"
    if why:
        raise InputError(
            f"the {len(plan.label_names)} classes found in {plan.root} look like people: {why}; names of classes are "
            "published in the policy, in reports and beside generated pictures",
            hint="arrange pictures in folders named after classes; if these are the classes, declare them: "
            "data.label_names in the federation file",
        )


def one_patient_each(plan: Plan) -> int:
    """Return how many classes hold one patient (or picture) alone, where that is most of at least six; grades do not
    count."""
    owners = _owners(plan)
    graded = {label for label in owners if _GRADE.match(plan.label_names[label])}
    single = sum(1 for label, found in owners.items() if len(found) == 1 and label not in graded)
    return single if len(owners) >= FEWEST and 2 * single > len(owners) else 0


def looks_like_a_person(name: str) -> bool:
    """Return whether the name of one class holds a date or a long number, or is that of a subject of a study."""
    return bool(_DATE.search(name) or _NUMBER.search(name) or _SUBJECT.fullmatch(name.strip()))


def _owners(plan: Plan) -> dict[int, set[str]]:
    """Whose pictures each class holds: patients where the layout names them, else files."""
    found: dict[int, set[str]] = {}
    for item in plan.items:
        if item.label >= 0:
            found.setdefault(item.label, set()).add(item.patient or item.path)
    return found


def _named(plan: Plan) -> int:
    """How many class names share a word of at least three letters or digits with a patient's identifier."""
    whose: dict[str, set[str]] = {}
    for item in plan.items:
        for word in _words(item.patient) if item.patient else ():
            whose.setdefault(word, set()).add(str(item.patient))
    words = {word for word, patients in whose.items() if len(patients) <= FAMILY}
    return sum(1 for name in plan.label_names if words & _words(name))


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.casefold()) if len(word) >= _SHORTEST}
