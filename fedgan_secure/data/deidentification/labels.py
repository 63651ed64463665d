"""Labels that name a person: they are not written beside the copies.

Labels are free text of a table or names of folders. They are searched for what everything else is searched for: the
identifying values of every file of the folder, patients and words of paths; and for what looks like a person without
any of these, as a date, a long number or the name of a subject does.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedgan_secure.data.deidentification.manifest import Record
from fedgan_secure.data.identifiers.words import SHORTEST_TEXT, path_words
from fedgan_secure.data.reading.people_as_classes import FAMILY, looks_like_a_person, one_patient_each
from fedgan_secure.data.reading.plans import Plan

LOOKS = "it looks like a person: a date, a number of five digits or more, or named like a subject"
SINGLE = "most labels hold one patient alone, as a folder for each patient does"
VALUE = "it holds an identifying value of a file"
PATH = "it holds a patient, or a word that stands in the path of a few patients' files alone"


def withheld(plan: Plan, records: Iterable[Record]) -> dict[str, str]:
    """Return the labels that may name a person, each with the reason.

    Args:
        plan: of the folder; a vocabulary that its layout fixes passes.
        records: of every file: the labels that hold a value of the file, and whose it is.

    Returns:
        Label to reason; a label that is not in it holds nothing that was looked for.
    """
    if plan.labels_fixed:
        return {}
    if one_patient_each(plan):
        return dict.fromkeys(plan.label_names, SINGLE)
    found = {name: LOOKS for name in plan.label_names if looks_like_a_person(name)}
    records = list(records)
    for record in records:
        for name in record.labels or ():
            found.setdefault(name, VALUE)
    words = _words_of_few(plan, records)
    for name in plan.label_names:
        text = name.casefold()
        if any(word in text for word in words):
            found.setdefault(name, PATH)
    return found


def _words_of_few(plan: Plan, records: list[Record]) -> set[str]:
    """Words of paths and identifiers that belong to few patients, without the class folder, which is the label."""
    patients = {item.path: item.patient for item in plan.items}
    whose: dict[str, set[str]] = {}
    for record in records:
        path = record.source.partition("/")[2] if plan.layout == "folders" else record.source
        patient = patients.get(record.source)
        words = path_words(path) | (path_words(patient) if patient else frozenset())
        for word in words:
            whose.setdefault(word, set()).add(record.patient or patient or record.source)
    for patient in (*plan.patient_labels, *(patient for _, patient in plan.file_labels)):
        if len(patient) >= SHORTEST_TEXT:
            whose.setdefault(patient.casefold(), {patient})
    return {word for word, owners in whose.items() if len(owners) <= FAMILY}
