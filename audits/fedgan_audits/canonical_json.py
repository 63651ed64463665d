"""JSON in canonical form (RFC 8785): what is hashed, signed, and accepted when it is read."""

from __future__ import annotations

import json
import re
from typing import Any

import rfc8785

from fedgan_audits.errors import AuditError

MAX_ENVELOPE_BYTES = 64 * 2**20


MAX_JSON_VALUES = 3_000_000


_BEYOND_BMP = re.compile(rb"[\xf0-\xf4]")


class EnvelopeError(AuditError):
    """An envelope, or the JSON inside it, is not what its format says."""

    exit_code = 5
    default_hint = (
        "The file was changed or is not from fedgan-secure. Take a fresh copy from whoever published the run."
    )


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785). NaN, infinities and whole numbers from 2^53 on are refused."""
    try:
        return rfc8785.dumps(value)
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(f"cannot be written as canonical JSON ({type(error).__name__})") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise EnvelopeError("a JSON object names the same key twice")
    return found


def _refuse_constant(text: str) -> Any:
    raise EnvelopeError(f"{text} is not a JSON number")


def parse_canonical(data: bytes, *, limit: int = MAX_ENVELOPE_BYTES) -> Any:
    """Parse JSON that must be in its canonical form; raises :class:`EnvelopeError` for anything else."""
    if len(data) > limit:
        raise EnvelopeError(f"{len(data)} bytes, expected at most {limit}")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_JSON_VALUES:
        raise EnvelopeError(f"more than {MAX_JSON_VALUES} values, which no file of a run has")
    numbers: set[str] = set()

    def number(text: str, kind: type[int] | type[float]) -> int | float:
        numbers.add(text)
        return kind(text)

    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_refuse_constant,
            parse_float=lambda token: number(token, float),
            parse_int=lambda token: number(token, int),
        )
    except RecursionError:
        raise EnvelopeError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise EnvelopeError(f"not readable as JSON ({type(error).__name__})") from None
    if not _plainly_canonical(value, data, text, numbers) and canonical(value) != data:
        raise EnvelopeError("not in canonical form (RFC 8785): the bytes were changed or written by another program")
    return value


def _plainly_canonical(value: Any, data: bytes, text: str, numbers: set[str]) -> bool:
    """Whether `data` is canonical for reasons that are quick to see; False says nothing.

    The standard library escapes strings as RFC 8785 does. It differs in the order of keys, but only beyond the basic
    plane of Unicode, and in how numbers are written: each number's own text is compared with its canonical one.
    """
    if _BEYOND_BMP.search(data):
        return False
    try:
        if json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) != text:
            return False
        return all(rfc8785.dumps(float(token) if "." in token or "e" in token else int(token)).decode() == token
                   for token in numbers)  # fmt: skip
    except (ValueError, RecursionError):
        return False


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values have the same canonical form; both were parsed or dumped, so that both have one."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)
