"""Which mutants are made: mutmut's operators by kind, those that a protocol needs besides, and no wording of errors.

mutmut changes operators, numbers and arguments. It never leaves a statement out, and a check that is left out is the
fault that matters here; so `statement`, `raise`, `code` and `except` are added. Sentences are not mutated: no test
should pin an error's wording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import libcst as cst
from mutmut.mutation import file_mutation, mutators

ARGUMENT = "argument"
"""The kind whose mutants are many and mostly crash; `run.py` can test a sample of it."""


def is_sentence(node: cst.CSTNode) -> bool:
    """A string with a space in it: wording for a person."""
    if isinstance(node, cst.ConcatenatedString):
        return is_sentence(node.left) or is_sentence(node.right)
    if isinstance(node, cst.FormattedString):
        return any(isinstance(part, cst.FormattedStringText) and " " in part.value for part in node.parts)
    return isinstance(node, cst.SimpleString) and " " in node.value


def changed_string(node: cst.BaseString) -> Iterator[cst.CSTNode]:
    """A label changed: "XX" around it."""
    if isinstance(node, cst.SimpleString) and not node.value.startswith(('"""', "'''")):
        start = node.value.index(node.value[-1]) + 1
        yield node.with_changes(value=f"{node.value[:start]}XX{node.value[start:-1]}XX{node.value[-1]}")


def changed_argument(node: cst.Call) -> Iterator[cst.CSTNode]:
    """Each argument None, and left out."""
    for at, argument in enumerate(node.args):
        if argument.star or is_sentence(argument.value):
            continue
        if not (isinstance(argument.value, cst.Name) and argument.value.value == "None"):
            nothing = argument.with_changes(value=cst.Name("None"))
            yield node.with_changes(args=[*node.args[:at], nothing, *node.args[at + 1 :]])
        if len(node.args) > 1:
            yield node.with_changes(args=[*node.args[:at], *node.args[at + 1 :]])


def missing_statement(node: cst.Expr) -> Iterator[cst.CSTNode]:
    """A call made for its effect is left out: `require(..)`, `checks.check_deal(..)`, `vector.setflags(..)`."""
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def missing_raise(node: cst.Raise) -> Iterator[cst.CSTNode]:
    """A refusal is left out, so that its `if` does nothing."""
    yield cst.Pass()


def other_code(node: cst.Attribute) -> Iterator[cst.CSTNode]:
    """A refusal with another code."""
    if isinstance(node.value, cst.Name) and node.value.value == "Code":
        other = "MALFORMED" if node.attr.value != "MALFORMED" else "INCONSISTENT"
        yield node.with_changes(attr=cst.Name(other))


def narrower_except(node: cst.ExceptHandler) -> Iterator[cst.CSTNode]:
    """A handler that catches one exception less, or none that occurs."""
    if isinstance(node.type, cst.Tuple):
        for one in node.type.elements:
            yield node.with_changes(type=cst.Tuple([other for other in node.type.elements if other is not one]))
    elif node.type is not None:
        yield node.with_changes(type=cst.Name("ZeroDivisionError"))


Operator = Callable[[Any], Iterable[cst.CSTNode]]
OPERATORS: Sequence[tuple[str, type, Operator]] = (
    ("number", cst.BaseNumber, mutators.operator_number),
    ("string", cst.BaseString, changed_string),
    ("boolean", cst.Name, mutators.operator_name),
    ("boolean", cst.UnaryOperation, mutators.operator_remove_unary_ops),
    ("comparison", cst.CSTNode, mutators.operator_keywords),
    ("comparison", cst.ComparisonTarget, mutators.operator_swap_op),
    ("boolean", cst.BooleanOperation, mutators.operator_swap_op),
    ("arithmetic", cst.BinaryOperation, mutators.operator_swap_op),
    ("arithmetic", cst.UnaryOperation, mutators.operator_swap_op),
    ("arithmetic", cst.AugAssign, mutators.operator_swap_op),
    ("arithmetic", cst.AugAssign, mutators.operator_augmented_assignment),
    ("branch", cst.IfExp, mutators.operator_if_exp),
    ("call", cst.Call, mutators.operator_symmetric_string_methods_swap),
    ("statement", cst.Expr, missing_statement),
    ("raise", cst.Raise, missing_raise),
    ("code", cst.Attribute, other_code),
    ("except", cst.ExceptHandler, narrower_except),
    (ARGUMENT, cst.Call, changed_argument),
)


class Visitor(file_mutation.MutationVisitor):
    """mutmut's visitor, except that it stays out of sentences."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        return is_sentence(node) or super()._skip_node_and_children(node)


def install(kinds: Iterable[str]) -> None:
    """Make mutmut, in this process and those that it forks, use the operators of `kinds`."""
    wanted = frozenset(kinds)
    file_mutation.mutation_operators = [(node, operator) for kind, node, operator in OPERATORS if kind in wanted]
    file_mutation.MutationVisitor = Visitor
