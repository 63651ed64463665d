"""The floors inside the rooms: no circle, no folder too full, rooms that know each other by their faces alone."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"fedgan_secure": "", "fedgan_protocols": "protocols", "fedgan_audits": "audits", "fedgan_cli": "cli"}
MOST_FILES = 16
A_FILE_A_COMMAND = ROOT / "cli" / "fedgan_cli"


def modules() -> dict[str, Path]:
    found = {}
    for package, source in SOURCES.items():
        for path in sorted((ROOT / source / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT / source).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
FACES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of everything of ours that a file imports anywhere: lazily and for types as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in SOURCES:
            for alias in node.names:
                yield node.module, alias.name


def home(module: str, name: str) -> str:
    """The file that a name comes from, through any number of faces."""
    if f"{module}.{name}" in MODULES:
        return f"{module}.{name}"
    if module in FACES:
        for source, offered in imported(TREES[module]):
            if offered == name:
                return home(source, name)
    return module


def floor_of(name: str) -> str:
    """The room that a module lies in, seen from the package: two names deep, or the file itself where it is single."""
    return ".".join(name.split(".")[:2])


ARROWS = {
    name: {home(module, one) for module, one in imported(TREES[name])} - {name} for name in MODULES if name not in FACES
}


def floors(depth: int | None) -> dict[str, set[str]]:
    def place(name: str) -> str:
        return name if depth is None else ".".join(name.split(".")[:depth])

    graph: dict[str, set[str]] = {}
    for name, used in ARROWS.items():
        graph.setdefault(place(name), set()).update(place(one) for one in used)
    return {name: used - {name} for name, used in graph.items()}


@pytest.mark.parametrize("depth", [None, 1, 2, 3], ids=["files", "packages", "rooms", "rooms of rooms"])
def test_every_arrow_runs_down(depth: int | None) -> None:
    try:
        tuple(TopologicalSorter(floors(depth)).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_a_folder_is_taken_in_at_a_glance() -> None:
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    counts.pop(A_FILE_A_COMMAND)
    full = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > MOST_FILES}
    assert full == {}


def offered(face: str) -> set[str]:
    """What a face names in `__all__`."""
    for node in TREES[face].body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_rooms_know_each_other_by_their_faces() -> None:
    """A single file of a package (`errors`) is a room of its own; files of one room, inner rooms included, may mix."""
    broken = []
    for name in ARROWS:
        for module, one in imported(TREES[name]):
            source = home(module, one)
            package = source.split(".")[0]
            if floor_of(source) == floor_of(name) or (package == name.split(".")[0] and source.count(".") == 1):
                continue
            if source.count(".") == 1 and package != "fedgan_protocols":
                continue
            if module not in FACES or one not in offered(module):
                broken.append(f"{name}: from {module} import {one}")
    assert broken == []


def test_a_face_offers_what_it_names_and_names_what_it_offers() -> None:
    for face in sorted(FACES):
        brought = {one for _, one in imported(TREES[face])}
        assert brought == offered(face), face


def test_no_private_name_crosses_a_file() -> None:
    broken = []
    for name, tree in TREES.items():
        ours = {one for _, one in imported(tree)}
        broken += [f"{name}: {one}" for one in ours if one.startswith("_") and not one.startswith("__")]
        broken += [
            f"{name}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ours
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and any(f"{module}.{one}" in MODULES for module, one in imported(tree) if one == node.value.id)
        ]
    assert broken == []


def test_the_page_of_the_layout_is_that_of_the_code() -> None:
    path = ROOT / "docs" / "layout.py"
    spec = importlib.util.spec_from_file_location("layout_page", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["layout_page"] = module
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `python docs/layout.py`"


def test_every_place_that_the_page_names_is_there() -> None:
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:audits|cli|fedgan_secure|protocols)/[\w./]*)`", text)
    assert len(named) > 50
    assert [place for place in named if not (ROOT / place).exists()] == []
