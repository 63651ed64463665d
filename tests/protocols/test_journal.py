"""Nothing leaves before it is on disk, and never two different replies for one place."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import pytest

from fedgan_protocols import Journal, JournalError, ProtocolError, Stage
from fedgan_protocols import journal as journal_module
from fedgan_protocols.journal import MAGIC
from fedgan_protocols.primitives.encoding import encode

S, R2 = bytes(32), Stage.MASKED_INPUT


def fill(path: Path, count: int = 3) -> bytes:
    with Journal(path) as journal:
        for round_ in range(1, count + 1):
            journal.record(S, round_, R2, 0, bytes(32), b"reply %d" % round_)
    return path.read_bytes()


def test_records_survive_and_are_found(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with Journal(tmp_path / "j") as journal:
        assert journal.torn_bytes == 0
        found = journal.find(S, 2, R2, 0)
        assert found is not None and found.reply == b"reply 2" and "reply 2" not in repr(found)
        assert journal.find(S, 2, R2, 1) is None and journal.find(bytes([1]) * 32, 2, R2, 0) is None
        assert [one.round for one in journal.rounds(S, 3)] == [3]
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


def test_the_same_bytes_are_accepted_again_and_others_refused(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    for _ in range(2):
        with Journal(tmp_path / "j") as journal:
            before = (tmp_path / "j").stat().st_size
            journal.record(S, 2, R2, 0, bytes(32), b"reply 2")
            assert (tmp_path / "j").stat().st_size == before
            with pytest.raises(JournalError):
                journal.record(S, 2, R2, 0, bytes(32), b"another")
            journal.record(S, 2, R2, 1, bytes(32), b"another sum")
            journal.record(bytes([1]) * 32, 2, R2, 0, bytes(32), b"another session")


def test_a_torn_tail_at_every_length_is_cut_off(tmp_path: Path) -> None:
    """A write that stopped anywhere: what was whole is kept, the rest was never released and is gone."""
    path = tmp_path / "j"
    whole = fill(path)
    two = fill(tmp_path / "two", 2)
    assert whole.startswith(two)
    for size in range(len(two), len(whole)):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
            assert journal.torn_bytes == size - len(two)
            assert journal.find(S, 2, R2, 0) is not None and journal.find(S, 3, R2, 0) is None
            journal.record(S, 3, R2, 0, bytes(32), b"other now")
        with Journal(path) as journal:
            assert journal.torn_bytes == 0 and journal.find(S, 3, R2, 0) is not None
    for size in range(8):
        path.write_bytes(whole[:size])
        with Journal(path) as journal:
            assert journal.torn_bytes == size and journal.rounds(S, 1) == ()


@pytest.mark.parametrize("zeros", [1, 7, 8, 100, 5000])
def test_blocks_that_were_never_written_read_as_zeros(tmp_path: Path, zeros: int) -> None:
    path = tmp_path / "j"
    whole = fill(path)
    path.write_bytes(whole + bytes(zeros))
    with Journal(path) as journal:
        assert journal.torn_bytes == zeros and journal.find(S, 3, R2, 0) is not None
    path.write_bytes(whole[:-32] + bytes(32))
    with Journal(path) as journal:
        assert journal.find(S, 3, R2, 0) is None and journal.find(S, 2, R2, 0) is not None


def test_damage_before_the_tail_is_never_mistaken_for_a_torn_write(tmp_path: Path) -> None:
    """One flipped bit anywhere but in the very last frame's end: refused, so nothing is released twice."""
    path = tmp_path / "j"
    whole = fill(path)
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(JournalError) as caught:
            Journal(path)
        assert caught.value.hint or "not a journal" in str(caught.value)


def test_one_process_at_a_time_and_no_use_after_closing(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal, pytest.raises(JournalError, match="another process"):
        Journal(tmp_path / "j")
    journal.close()
    with pytest.raises(JournalError):
        journal.record(S, 1, R2, 0, bytes(32), b"x")
    with pytest.raises(JournalError):
        Journal(tmp_path / "missing" / "j")


def test_a_full_disk_releases_nothing(tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = lab.federation()
    with Journal(tmp_path / "j") as journal:
        client = federation.client("h1", journal=journal)

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(JournalError, match="No space left"):
            client.handle("advertise-keys", federation.server().next_phase().payloads["h1"])
        assert client.phase == "Aborted"


def test_fsync_comes_before_the_reply(tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = lab.federation()
    synced: list[int] = []
    real = os.fsync
    with Journal(tmp_path / "j") as journal:
        clients = {**federation.clients(), "h1": federation.client("h1", journal=journal)}
        monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle)))
        counts: list[int] = []

        def note(name: str, phase: str, packet: bytes) -> bytes:
            if name == "h1":
                counts.append(len(synced))
            return packet

        federation.run(clients=clients, to_server=note)
        assert counts == [1, 2, 3, 4, 5, 6]
        assert len(journal.rounds(federation.parameters.session, 1)) == 6


def test_a_restarted_client_repeats_its_bytes_or_aborts(tmp_path: Path, lab: Any) -> None:
    federation = lab.federation()
    server = federation.server()
    requests, replies = {}, {}
    with Journal(tmp_path / "j") as journal:
        clients = {**federation.clients(), "h1": federation.client("h1", journal=journal)}
        for _ in range(2):
            phase = server.next_phase()
            answers = {name: clients[name].handle(phase.name, packet) for name, packet in phase.payloads.items()}
            requests[phase.name], replies[phase.name] = phase.payloads["h1"], answers["h1"]
            server.receive(answers)
    with Journal(tmp_path / "j") as journal:
        for name, request in requests.items():
            restarted = federation.client("h1", journal=journal, salt="other coins")
            assert restarted.handle(name, request) == replies[name]
        with pytest.raises(JournalError):  # its keys are gone: it cannot go on
            restarted.handle("masked-input", server.next_phase().payloads["h1"])
        other = federation.client("h1", journal=journal, salt="other coins")
        raw, _ = lab.split(requests["share-keys"])
        with pytest.raises(ProtocolError):
            other.handle("share-keys", lab.join(raw, b"another"))
    with Journal(tmp_path / "j") as journal:  # another round is another matter
        later = lab.federation(round_=2)
        later.client("h1", journal=journal).handle("advertise-keys", later.server().next_phase().payloads["h1"])


def test_large_replies_are_kept_by_digest_so_a_restart_aborts(
    tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "LARGEST_KEPT_REPLY", 10)
    federation = lab.federation()
    request = federation.server().next_phase().payloads["h1"]
    with Journal(tmp_path / "j") as journal:
        federation.client("h1", journal=journal).handle("advertise-keys", request)
        with pytest.raises(JournalError):
            federation.client("h1", journal=journal).handle("advertise-keys", request)
        with pytest.raises(JournalError):
            journal.record(federation.parameters.session, 1, Stage.ADVERTISE_KEYS, 0, bytes(32), b"different")


CHILD = """
    import os, signal, sys
    from fedgan_protocols import Journal, Stage
    at, path = int(sys.argv[1]), sys.argv[2]
    calls = [0]
    def before(real):
        def wrapped(*arguments):
            calls[0] += 1
            if calls[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return wrapped
    journal = Journal(path)
    os.pwrite, os.fsync = before(os.pwrite), before(os.fsync)
    for round_ in range(1, 4):
        journal.record(bytes(32), round_, Stage.MASKED_INPUT, 0, bytes(32), b"reply %d" % round_)
        print(round_, flush=True)
"""


@pytest.mark.parametrize("at", range(1, 7))
def test_sigkill_at_every_boundary_loses_nothing_that_was_released(tmp_path: Path, at: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(at), str(tmp_path / "j")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with Journal(tmp_path / "j") as journal:
        for round_ in map(int, done.stdout.split()):
            found = journal.find(bytes(32), round_, R2, 0)
            assert found is not None and found.reply == b"reply %d" % round_


@pytest.mark.parametrize("place", range(7))
def test_a_record_with_a_field_of_another_type_is_damage(tmp_path: Path, place: int) -> None:
    """The checksums are right, so only the fields themselves can be refused."""
    path = tmp_path / "journal"
    with Journal(path):
        pass
    fields: list[Any] = [b"s" * 32, 1, 2, 0, b"r" * 32, b"d" * 32, b"reply"]
    for wrong in ([], [b"x"], "text", b"bytes" if isinstance(fields[place], int) else 7):
        body = encode([*fields[:place], wrong, *fields[place + 1 :]])
        length = len(body).to_bytes(4, "big")
        chain = hashlib.sha256(hashlib.sha256(MAGIC).digest() + body).digest()
        path.write_bytes(MAGIC + length + zlib.crc32(length).to_bytes(4, "big") + body + chain)
        with pytest.raises(JournalError):
            Journal(path)
