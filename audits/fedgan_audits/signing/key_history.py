"""Which keys a member has had, from the one key that an auditor trusts and the member's own statements.

The key that came from outside (NAME.pub.pem) is the start. Rotations lead from it to later keys, each named by the one
before it, and to earlier keys, each named by the one after it. Whatever could lead to two answers leads to none: of two
successors of one key neither is followed, a circle is not closed, and a statement that starts from no known key is not
believed. Every such statement is a finding that fails the verification, since it is either an attack or a mistake.

A key is revoked by itself, by a later key of the same member, or by the auditor's own list (`revoked.txt`). Of several
revocations all count, each by itself: none takes back what another says. What a thief can do with a stolen key is in
docs/adr/0011.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedgan_audits.signing.held_keys import Held, KeyHistory, Listed, Revoked, by_run
from fedgan_audits.signing.key_statements import Revocation, Rotation, Signed, fingerprint

Finding = tuple[str, str]
"""A file and what is wrong with it."""


@dataclass
class _Resolver:
    name: str
    anchor: str
    findings: list[Finding] = field(default_factory=list)

    def resolve(self, statements: Sequence[Signed], listed: Sequence[Listed]) -> KeyHistory:
        rotations = [signed for signed in statements if isinstance(signed.statement, Rotation)]
        usable = list({signed.digest: signed for signed in rotations if self._two_signatures(signed)}.values())
        usable = self._without_forks(usable)
        later, earlier = self._follow(usable)
        used = [*reversed(earlier), *later]
        for signed in usable:
            if signed not in used:
                self.findings.append((signed.file, f"leads from no key of {self.name} that you trust, or to none"))
        used = self._in_order(used, len(earlier))
        keys = [rotation_of(used[0]).old_key] if used else [self.anchor]
        keys += [rotation_of(signed).new_key for signed in used]
        revoked = self._revocations(statements, keys, listed)
        chain = tuple(
            Held(
                raw,
                began=rotation_of(used[place - 1]) if place else None,
                retired=rotation_of(used[place]) if place < len(used) else None,
                revoked=tuple(revoked[raw]),
            )
            for place, raw in enumerate(keys)
        )
        return KeyHistory(self.name, self._believed(chain, {rotation_of(s).old_key: s.file for s in used}))

    def _two_signatures(self, signed: Signed) -> bool:
        statement = rotation_of(signed)
        wanted = {fingerprint(statement.old_key): statement.old_key, fingerprint(statement.new_key): statement.new_key}
        fits = set(signed.envelope.signatures) == set(wanted) and all(map(signed.signed_by, wanted.values()))
        if not fits:
            text = f"is not signed by the old key {fingerprint(statement.old_key)} and accepted by the new one"
            self.findings.append((signed.file, text))
        return fits

    def _without_forks(self, rotations: Sequence[Signed]) -> list[Signed]:
        forked: set[str] = set()
        for side, text in (("old_key", "names another successor of"), ("new_key", "names another predecessor of")):
            groups: defaultdict[str, list[Signed]] = defaultdict(list)
            for signed in rotations:
                groups[getattr(signed.statement, side)].append(signed)
            for raw, group in groups.items():
                if len(group) > 1:
                    forked.update(signed.digest for signed in group)
                    for signed in group:
                        others = ", ".join(other.file for other in group if other is not signed)
                        what = f"{text} {self.name}'s key {fingerprint(raw)} than {others}: neither is followed"
                        self.findings.append((signed.file, what))
        return [signed for signed in rotations if signed.digest not in forked]

    def _follow(self, rotations: Sequence[Signed]) -> tuple[list[Signed], list[Signed]]:
        forward = {rotation_of(signed).old_key: signed for signed in rotations}
        backward = {rotation_of(signed).new_key: signed for signed in rotations}
        known, later, earlier = {self.anchor}, [], []
        here = self.anchor
        while (signed := forward.get(here)) is not None:
            here = rotation_of(signed).new_key
            if here in known:
                self.findings.append((signed.file, f"leads back to {self.name}'s key {fingerprint(here)}: a circle"))
                break
            known.add(here)
            later.append(signed)
        here = self.anchor
        while (signed := backward.get(here)) is not None and signed not in later:
            here = rotation_of(signed).old_key
            if here in known:
                break  # the circle was named above
            known.add(here)
            earlier.append(signed)
        return later, earlier

    def _in_order(self, used: list[Signed], start: int) -> list[Signed]:
        """Those around the trusted key (before place `start`), each naming the one before and not dated before it.

        What lies beyond a break, seen from the trusted key, is left out.
        """
        first, end = 0, len(used)
        for place in range(1, len(used)):
            before, after = rotation_of(used[place - 1]), rotation_of(used[place])
            if after.sequence != before.sequence + 1 or after.previous != used[place - 1].digest:
                text = f"does not follow from {used[place - 1].file}: stale or replaced"
            elif after.time < before.time:
                text = f"is dated before {used[place - 1].file}, which it follows"
            else:
                continue
            self.findings.append((used[place].file, text))
            if place >= start:
                end = min(end, place)
            else:
                first = place
        return used[first:end]

    def _revocations(
        self, statements: Sequence[Signed], keys: Sequence[str], listed: Sequence[Listed]
    ) -> defaultdict[str, list[Revoked]]:
        found: defaultdict[str, list[Revoked]] = defaultdict(list)
        for signed in statements:
            statement = signed.statement
            if not isinstance(statement, Revocation):
                continue
            if statement.key not in keys:
                text = f"revokes {fingerprint(statement.key)}, which is no key of {self.name} that you trust"
                self.findings.append((signed.file, text))
                continue
            place = keys.index(statement.key)
            signers = [raw for raw in keys[place:] if signed.signed_by(raw)]
            if len(signed.envelope.signatures) != 1 or not signers:
                text = f"is not signed by {self.name}'s key that it revokes or by a later one: it does not count"
                self.findings.append((signed.file, text))
                continue
            runs = None if statement.signed is None else by_run(statement.signed)
            by = "itself" if signers[0] == statement.key else f"its successor {fingerprint(signers[0])}"
            entry = Revoked(
                statement.since, by, statement.reason, runs, made=statement.time, successor=statement.successor
            )
            found[statement.key].append(entry)
            follows = keys[place + 1] if place + 1 < len(keys) else None
            if statement.successor != follows and place >= keys.index(self.anchor):
                named = fingerprint(statement.successor) if statement.successor else "no key"
                text = f"says that {named} followed the key that it revokes, and the rotations here say otherwise"
                self.findings.append((signed.file, text))
        for raw in keys:
            for line in listed:
                if line.fingerprint == fingerprint(raw):
                    found[raw].append(Revoked(line.since, f"your own list {line.file}", "", None, listed=True))
        return found

    def _believed(self, chain: tuple[Held, ...], files: Mapping[str, str]) -> tuple[Held, ...]:
        """Without the keys that a revoked key leads to: a thief may have named them, and have written any date.

        Forward from the trusted key: none after one that was revoked before it named its successor, by a revocation
        that names another successor or none, or by the auditor's list, with which no statement agrees or disagrees.
        Backward: none before keys that are all revoked, as
        no key that still counts names what came before them (each rotation names the one before it).
        """
        start = next(place for place, held in enumerate(chain) if held.raw == self.anchor)
        chain = self._believed_forward(chain, start, files)
        for place in range(start - 1, -1, -1):
            if all(held.revoked for held in chain[place + 1 :]):
                text = (
                    f"names a predecessor of {self.name}'s key {chain[place + 1].fingerprint}, which is revoked, and no"
                    " key that still counts names it: it is not followed"
                )
                self.findings.append((files[chain[place].raw], text))
                return chain[place + 1 :]
        return chain

    def _believed_forward(self, chain: tuple[Held, ...], start: int, files: Mapping[str, str]) -> tuple[Held, ...]:
        for place in range(start, len(chain) - 1):
            held = chain[place]
            if held.retired is not None and any(entry.precedes(held.retired) for entry in held.revoked):
                text = (
                    f"names a successor with {self.name}'s key {held.fingerprint}, which is revoked:"
                    f" take {self.name}'s new key by another way and put it here as {self.name}.pub.pem"
                )
                self.findings.append((files[held.raw], text))
                return chain[: place + 1]
        return chain


def rotation_of(signed: Signed) -> Rotation:
    """The rotation that a statement is; raises TypeError where it is a revocation."""
    if not isinstance(signed.statement, Rotation):
        raise TypeError(f"{signed.file} is no rotation")
    return signed.statement


def histories(
    anchors: Mapping[str, str], statements: Sequence[Signed], listed: Sequence[Listed]
) -> tuple[dict[str, KeyHistory], list[Finding]]:
    """The history of every member with a trusted key, and what is wrong with the statements.

    `anchors` are the trusted keys by name, each as 32 bytes in hexadecimal.
    """
    found: dict[str, KeyHistory] = {}
    findings: list[Finding] = []
    for signed in statements:
        if signed.statement.name not in anchors:
            who = signed.statement.name
            text = f"is about {who}, of whom you trust no key: {who}.pub.pem is missing"
            findings.append((signed.file, text))
    for name, raw in anchors.items():
        resolver = _Resolver(name, raw)
        own = [signed for signed in statements if signed.statement.name == name]
        found[name] = resolver.resolve(own, listed)
        findings += resolver.findings
    return found, findings
