"""Class names that are people: a folder for each patient, or a name, a number or a date of birth in a label.

Names of classes are published: in the policy, in reports, in the folders of generated pictures. A vocabulary that
nobody declared but the data is therefore refused where it looks like a list of people.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from fedgan_secure.data.identifiers.persons import word_marks
from fedgan_secure.data.reading.plans import Plan
from fedgan_secure.errors import InputError

FEWEST = 6
"""Fewer classes than this are not taken for people because each holds one patient: a first try has few pictures. Nor
are grades, whose names begin with a number of one or two digits."""
FEW_PICTURES, FEWEST_FOLDERS = 4, 8
"""Where nothing names a patient, so many folders of so few pictures are taken for people."""
_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*"
_YEAR_FIRST = r"(?:19|20)\d{2}[-._/ ]?[01]\d[-._/ ]?[0-3]\d"
_DAY_FIRST = r"[0-3]?\d[-._/][01]?\d[-._/](?:19|20)?\d{2}"
_IN_WORDS = rf"[0-3]?\d[-._/ ]*{_MONTH}[-._/ ]*(?:19|20)?\d{{2}}|(?:19|20)\d{{2}}[-._/ ]*{_MONTH}[-._/ ]*[0-3]?\d"
_DATE = re.compile(rf"(?<!\d)(?:{_YEAR_FIRST}|{_DAY_FIRST}|{_IN_WORDS})(?!\d)", re.IGNORECASE)
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
    elif few := _few_pictures(plan):
        why = f"{few} of them hold no more than {FEW_PICTURES} pictures, and nothing names a patient"
    elif named := _named(plan):
        why = f"{named} of them hold a word that is also in a patient's identifier"
    if why:
        raise _people(plan, why)


def refuse_people_of_headers(
    plan: Plan, owners: Mapping[int, set[str]], words: Mapping[bytes, set[str]], key: bytes
) -> None:
    """Refuse such a vocabulary by what the headers of the files said of their patients.

    Args:
        plan: as for `refuse_people_as_classes`; its label names were collected.
        owners: class -> the identifiers of its patients.
        words: word of an identifier or a name, as a keyed digest -> whose it is.
        key: of these digests (`persons.word_marks`).

    Raises:
        InputError: as `refuse_people_as_classes`.
    """
    seldom = {mark for mark, patients in words.items() if len(patients) <= FAMILY}
    named = sum(1 for name in plan.label_names if word_marks(name, key) & seldom)
    graded = {label for label in owners if _GRADE.match(plan.label_names[label])}
    single = sum(1 for label, found in owners.items() if len(found) == 1 and label not in graded)
    if named:
        raise _people(plan, f"{named} of them hold a word that is also in a patient's identifier or name")
    if len(owners) >= FEWEST and 2 * single > len(owners):
        raise _people(plan, f"{single} of them hold one patient alone")


def _people(plan: Plan, why: str) -> InputError:
    return InputError(
        f"the {len(plan.label_names)} classes found in {plan.root} look like people: {why}; names of classes are "
        "published in the policy, in reports and beside generated pictures",
        hint="arrange pictures in folders named after classes; if these are the classes, declare them: "
        "data.label_names in the federation file",
    )


def _few_pictures(plan: Plan) -> int:
    """How many classes hold a few pictures alone, where that is most of at least eight, no patient is named, and the
    names are no grades."""
    if plan.names_patient:
        return 0
    counts = Counter(item.label for item in plan.items if item.label >= 0)
    few = [
        label for label, count in counts.items() if count <= FEW_PICTURES and not _GRADE.match(plan.label_names[label])
    ]
    return len(few) if len(counts) >= FEWEST_FOLDERS and 2 * len(few) > len(counts) else 0


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
