"""What `run` says of the data before it begins: whatever the loaders found doubtful, and whose it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fedgan_cli.run import _remarks, _several_people


class Terminal:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def said(findings: dict[str, Any]) -> Terminal:
    terminal = Terminal()
    federation: Any = SimpleNamespace(source=SimpleNamespace(findings=findings))
    _several_people(federation, terminal)  # type: ignore[arg-type]
    _remarks(federation, terminal)  # type: ignore[arg-type]
    return terminal


def test_notes_and_several_people_are_told_with_the_hospital() -> None:
    own = {"notes": ["1 groups of identifiers differ"], "several_people": [{"patient": "p1", "differs": "2 names"}]}
    terminal = said({"north": own, "south": {"notes": [], "several_people": []}})
    assert terminal.notes == ["hospital north: 1 groups of identifiers differ"]
    assert len(terminal.warnings) == 1 and terminal.warnings[0].startswith("hospital north: 1 identifiers stand for")
    assert "p1" not in terminal.warnings[0]


def test_of_one_data_set_it_is_told_once() -> None:
    shared = {"shared data set": {"notes": ["labels doubtful"], "several_people": []}, "partition": "iid"}
    assert said({"a": shared, "b": shared}).notes == ["the data set: labels doubtful"]
