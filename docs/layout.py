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
(ADR 1), each in rooms (ADR 32). A room's `__init__` names what other rooms may use, and others import the room, never a
file behind it. Imports run down: a room uses rooms that stand **below** it on this page (within one floor they do not
know each other), the command line uses everything; `fedgan_audits` and `fedgan_protocols` know neither each other nor
anything else. `tests/test_floors.py` holds all of it.
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
            lines += ["A file for each command.", ""]
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
