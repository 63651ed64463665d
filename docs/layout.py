"""Write docs/layout.md: every room, floor by floor, and every file in it by the first line of its docstring.

`python docs/layout.py` writes the page again; tests/test_floors.py compares it with the code.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "layout.md"
PACKAGES = {
    "fedgan_cli": ROOT / "cli" / "fedgan_cli",
    "fedgan_secure": ROOT / "fedgan_secure",
    "fedgan_protocols": ROOT / "protocols" / "fedgan_protocols",
    "fedgan_audits": ROOT / "audits" / "fedgan_audits",
}
INTRODUCTION = """# Where everything is

Written by `python docs/layout.py` from the docstrings; a test compares. Four packages, each in its own source root
(ADR 1), each in rooms (ADR 32). A room's `__init__` names what other rooms may use, and others import the room, never
a file behind it. Imports run down: a room uses rooms that stand **below** it on this page (within one floor they do
not know each other), the command line uses everything; `fedgan_audits` and `fedgan_protocols` know neither each other
nor anything else. `tests/test_floors.py` holds all of it.

## The path of a round

Reservation first: `fedgan_secure/federation/turns.py` asks whether the round is due,
`audits/fedgan_audits/ledger/ledger.py` reserves it. Then:

1. `fedgan_secure/federation/hospital.py` trains (`fedgan_secure/training/`, `fedgan_secure/head_training/` or a
   release, `fedgan_secure/federation/released/`), and its session masks
   (`protocols/fedgan_protocols/client/machine.py`).
2. `fedgan_secure/federation/drivers/local.py` carries bytes; `protocols/fedgan_protocols/server/machine.py` sums, and
   `protocols/fedgan_protocols/server/unmasking.py` takes the masks off.
3. Each hospital compares the sum and writes it down before it acknowledges
   (`fedgan_secure/federation/review/received_sums.py`). `fedgan_secure/federation/coordinator.py` applies it: what
   follows from a sum is the family's (`fedgan_secure/federation/families/family.py`).
4. `fedgan_secure/federation/rounds.py` gathers the facts, `audits/fedgan_audits/report/report.py` makes the report
   and its page of them. `fedgan_secure/federation/run.py` calls both, for the coordinator.
5. Each hospital makes it again and compares (`fedgan_secure/federation/review/`), then signs
   (`audits/fedgan_audits/signing/envelope.py`).
6. `audits/fedgan_audits/publishing/round.py` publishes what was signed, `audits/fedgan_audits/publishing/manifest.py`
   lists all files. Afterwards anybody verifies: `audits/fedgan_audits/verification/verify.py`, with
   `fedgan_secure/transcript_check.py` for the protocol's part.

Epsilon, also that of a patient in several hospitals: `audits/fedgan_audits/accounting/accountant.py`; the figures of
a report: `audits/fedgan_audits/report/figures.py`. A new export: `audits/fedgan_audits/exports/`, offered by
`cli/fedgan_cli/run_export.py`.
"""


def first_line(path: Path) -> str:
    """Return the first line of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def floors(package: str, folder: Path) -> list[list[Path]]:
    """Return the rooms and single files of a package, topmost floor first; a floor in alphabetical order."""
    places = {path.stem: path for path in folder.glob("*.py") if path.name != "__init__.py"}
    places |= {path.parent.name: path.parent for path in folder.glob("*/__init__.py")}
    graph: dict[str, set[str]] = {name: set() for name in places}
    for name, place in places.items():
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
                    parts = node.module.split(".")[1:]
                    graph[name] |= {parts[0]} if parts else {alias.name for alias in node.names}
    sorter = TopologicalSorter({name: (used & set(places)) - {name} for name, used in graph.items()})
    sorter.prepare()
    found = []
    while sorter.is_active():
        floor = sorter.get_ready()
        found.append([places[name] for name in sorted(floor)])
        sorter.done(*floor)
    return found[::-1]


def rows_of(place: Path) -> list[str]:
    """Return the lines of the page about a room or a single file."""
    root = PACKAGES["fedgan_secure"].parent
    if place.is_file():
        return [f"**`{place.relative_to(root)}`** {first_line(place)}", ""]
    lines = [f"**`{place.relative_to(root)}/`** {first_line(place / '__init__.py')}", ""]
    lines += [
        f"- `{path.name}` {first_line(path)}" for path in sorted(place.glob("*.py")) if path.name != "__init__.py"
    ]
    for inner in sorted(path.parent for path in place.glob("*/__init__.py")):
        lines.append(f"- `{inner.name}/` {first_line(inner / '__init__.py')}")
        lines += [
            f"    - `{path.name}` {first_line(path)}"
            for path in sorted(inner.glob("*.py"))
            if path.name != "__init__.py"
        ]
    return [*lines, ""]


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    for package, folder in PACKAGES.items():
        lines += [f"## {package}", "", first_line(folder / "__init__.py"), ""]
        if package == "fedgan_cli":
            lines += ["`cli/fedgan_cli/`: a file for each command, or for what several of them print.", ""]
            for path in sorted(folder.glob("*.py")):
                if path.name != "__init__.py":
                    lines.append(f"- `{path.name}` {first_line(path)}")
            lines.append("")
            continue
        ordered = floors(package, folder)
        for number, floor in enumerate(ordered):
            lines += [f"### Floor {len(ordered) - number}", ""]
            for place in floor:
                lines += rows_of(place)
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
