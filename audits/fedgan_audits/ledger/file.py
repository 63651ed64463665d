"""The file under a ledger: SQLite, opened so that a commit is on the disk when it returns.

Rollback journal and synchronous=EXTRA, not WAL: between transactions one file is the whole ledger, so that a copy of
it is complete, and a commit is durable once it returns (EXTRA also syncs the folder after the journal is removed; with
FULL a power cut just then could roll the commit back). Triggers refuse to change, remove or renumber an entry.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedgan_audits.errors import LedgerCorrupt, LedgerError

APPLICATION_ID = 0x46474C31
"""SQLite's mark of the kind of file: "FGL1"."""

FORMAT_VERSION = 1
"""Version of the table and of the entries' form; a ledger of another version is refused."""

BUSY_SECONDS = 30.0
"""How long a writer waits for another one."""

_SCHEMA = """
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY CHECK (sequence >= 1),
    kind TEXT NOT NULL,
    run_id TEXT,
    round INTEGER,
    body TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE
);
CREATE UNIQUE INDEX one_reservation ON entries (run_id, round) WHERE kind = 'reserved';
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER in_order BEFORE INSERT ON entries
    WHEN NEW.sequence IS NOT (SELECT COALESCE(MAX(sequence), 0) + 1 FROM entries)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


def create_schema(connection: sqlite3.Connection) -> None:
    """Make the empty table of a new ledger, inside the caller's transaction."""
    for statement in _statements(_SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def is_blank(connection: sqlite3.Connection) -> bool:
    """Whether the file is SQLite's but holds nothing yet, as between being made and being filled."""
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and _pragma(connection, "application_id") == 0


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raise LedgerCorrupt for a file that is no ledger, LedgerError for one of another version."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise LedgerCorrupt(f"{path} is not a ledger of fedgan-secure", hint="Check the path.")
    found = _pragma(connection, "user_version")
    if found != FORMAT_VERSION:
        raise LedgerError(
            f"the ledger at {path} has format version {found}, but {FORMAT_VERSION} is expected",
            hint="Use the version of fedgan-secure that wrote it, or a newer one.",
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def make_file(path: Path) -> bool:
    """Create an empty file that its owner alone can read, and make its name durable; False if another was faster."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        return False
    except OSError as error:
        raise LedgerError(
            f"a ledger cannot be made at {path}: {error.strerror}", hint="Check the rights of the folder and the disk."
        ) from None
    return True


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rw"
    with translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one (triggers contain semicolons)."""
    part = ""
    for line in script.splitlines():
        part += line + "\n"
        if part.strip() and sqlite3.complete_statement(part):
            yield part
            part = ""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors in words, with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # a wrong use of the module, not a state of the file
            raise
        primary = code & 0xFF
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise LedgerError(
                f"the ledger at {path} could not be written ({error}); nothing was reserved or recorded",
                hint="Make room on the disk, then run again: what was reserved before stays reserved.",
            ) from None
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerError(
                f"the ledger at {path} is in use by another process",
                hint="Wait for the other run of this hospital to end.",
            ) from None
        if code == sqlite3.SQLITE_READONLY_ROLLBACK:
            raise LedgerError(
                f"a process was killed while it wrote to the ledger at {path}: its half-made entry has to be "
                "taken back, and a reader changes nothing",
                hint="Resume that run (`fedgan-secure run --resume RUN`) or start the hospital's next: either does it.",
            ) from None
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            raise LedgerError(
                f"the ledger at {path} cannot be opened for this use ({error})",
                hint="Check that it is a file, and the owner and the rights of the file and its folder.",
            ) from None
        if primary == sqlite3.SQLITE_CONSTRAINT:
            raise LedgerError(
                f"the ledger at {path} is append-only: an entry is never changed, removed or made twice"
            ) from None
        raise LedgerCorrupt(f"{path} is not a ledger, or its file is damaged ({error})") from None
