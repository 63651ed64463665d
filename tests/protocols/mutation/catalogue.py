"""Which mutants there are, which are tested, and what became of them.

mutmut reads its settings when it is imported: this module is imported in the staged folder.
"""

from __future__ import annotations

import difflib
import random  # which arguments are sampled: no secret depends on it
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import libcst as cst
import mutmut.__main__ as runner
from mutmut.mutation import file_mutation
from mutmut.mutation.data import SourceFileMutationData
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name
from operators import ARGUMENT, OPERATORS, install
from staging import MODULES, PACKAGE

IN_FULL = ("masking", "shamir")
"""Modules whose `argument` mutants are all tested; of the others a sample."""


@dataclass(frozen=True)
class Mutant:
    """One change: its name in mutmut, where it is, its kind, and the lines it removes and adds."""

    name: str
    module: str
    function: str
    kind: str
    before: str
    after: str


def remember_kinds() -> dict[int, tuple[str, object]]:
    """Wrap the operators so that each mutated node is known by its kind; keeps the nodes alive, so ids are unique."""
    kinds: dict[int, tuple[str, object]] = {}

    def wrapped(kind: str, operator: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def operate(node: Any) -> Any:
            for mutated in operator(node):
                kinds[id(mutated)] = (kind, mutated)
                yield mutated

        return operate

    file_mutation.mutation_operators = [(node, wrapped(kind, operator)) for kind, node, operator in OPERATORS]
    return kinds


def catalogue(folder: Path) -> list[Mutant]:
    """Every mutant, in mutmut's own numbering."""
    install(kind for kind, _, _ in OPERATORS)
    kinds, found = remember_kinds(), []
    for module in MODULES:
        path = Path(PACKAGE) / f"{module}.py"
        source = (folder / path).read_text(encoding="utf-8")
        tree, mutations, _, _ = file_mutation.create_mutations(str(path), source)
        by_function = file_mutation.group_by_top_level_node(mutations)
        owners = dict.fromkeys(tree.body) | {
            node: outer.name.value
            for outer in tree.body
            if isinstance(outer, cst.ClassDef) and isinstance(outer.body, cst.IndentedBlock)
            for node in outer.body.body
        }
        for function, inside in by_function.items():
            if not isinstance(function, cst.FunctionDef):
                continue  # mutmut leaves class bodies as they are
            owner, before = owners[function], tree.code_for_node(function).splitlines()
            stem = file_mutation.mangle_function_name(name=function.name.value, class_name=owner)
            label = f"{owner}.{function.name.value}" if owner else function.name.value
            for number, mutation in enumerate(inside, 1):
                changed = file_mutation.deep_replace(function, mutation.original_node, mutation.mutated_node)
                delta = [
                    line
                    for line in difflib.ndiff(before, tree.code_for_node(changed).splitlines())
                    if line[0] in "+-" and line[1:].strip()
                ]
                found.append(
                    Mutant(
                        get_mutant_name(path, f"{stem}__mutmut_{number}"),
                        module,
                        label,
                        kinds[id(mutation.mutated_node)][0],
                        " ".join(line[2:].strip() for line in delta if line[0] == "-"),
                        " ".join(line[2:].strip() for line in delta if line[0] == "+"),
                    )
                )
    return found


def chosen(mutants: Sequence[Mutant], share: float, seed: int) -> list[Mutant]:
    """All kinds in full, but of `argument` outside `IN_FULL` a seeded sample of each module."""
    kept = [mutant for mutant in mutants if mutant.kind != ARGUMENT or mutant.module in IN_FULL]
    for module in MODULES:
        if module not in IN_FULL:
            rest = sorted((m for m in mutants if m.kind == ARGUMENT and m.module == module), key=lambda m: m.name)
            kept += random.Random(f"{seed}/{module}").sample(rest, round(share * len(rest)))  # noqa: S311
    return kept


def verdicts() -> dict[str, str]:
    """Name -> killed, survived, timeout, no tests, not checked."""
    found: dict[str, str] = {}
    for module in MODULES:
        data = SourceFileMutationData(path=Path(PACKAGE) / f"{module}.py")
        data.load()
        found |= {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
    return found


def report(mutants: Sequence[Mutant], status: dict[str, str], made: Sequence[Mutant]) -> dict[str, object]:
    """Counts by module and by kind, and every mutant that no test killed."""

    def counts(of: Sequence[Mutant]) -> dict[str, object]:
        tally = Counter(status.get(mutant.name, "not checked") for mutant in of)
        dead = tally["killed"] + tally["timeout"]
        tested = sum(tally.values()) - tally["not checked"]
        return {**tally, "tested": tested, "killed": dead, "score": round(dead / tested, 4) if tested else None}

    return {
        "modules": {
            module: {"made": sum(m.module == module for m in made)}
            | counts([mutant for mutant in mutants if mutant.module == module])
            for module in MODULES
        },
        "kinds": {
            kind: counts([mutant for mutant in mutants if mutant.kind == kind])
            for kind in dict.fromkeys(kind for kind, _, _ in OPERATORS)
        },
        "all": counts(mutants),
        "not_killed": [
            {**asdict(mutant), "status": status.get(mutant.name, "not checked")}
            for mutant in mutants
            if status.get(mutant.name, "not checked") not in ("killed", "timeout")
        ],
    }


def test(names: Sequence[str], workers: int, longest: float) -> None:
    """Generate the mutants and run against those named every test that took at most `longest` seconds when timed."""
    install(kind for kind, _, _ in OPERATORS)
    timed = runner.collect_or_load_stats

    def quick_ones(*given: Any, **more: Any) -> None:
        timed(*given, **more)
        slow = {name for name, seconds in state().duration_by_test.items() if seconds > longest}
        for tests in state().tests_by_mangled_function_name.values():
            tests -= slow

    runner.collect_or_load_stats = quick_ones
    runner.run.callback(tuple(names), max_children=workers)
