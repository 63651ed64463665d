"""In the privacy room randomness comes from the entropy source alone: read from the syntax tree."""

import ast
from pathlib import Path

import pytest

import fedgan_secure.privacy

ROOM = Path(fedgan_secure.privacy.__file__).parent
BANNED = {("tf", "random"), ("tensorflow", "random"), ("np", "random"), ("numpy", "random"), ("keras", "random")}


def found(source: str) -> list[str]:
    bad = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in BANNED:
                bad.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            bad += [name.name for name in node.names if "random" in name.name.split(".")]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(name.name for name in node.names)]
            bad += [name for name in names if name == "random"]
    return bad


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.name)
def test_no_other_source_of_randomness(path: Path) -> None:
    assert found(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "import numpy.random",
        "from numpy import random",
        "x = np.random.rand()",
        "tf.random.normal([1])",
    ],
)
def test_the_test_sees_what_it_should(source: str) -> None:
    assert found(source)
