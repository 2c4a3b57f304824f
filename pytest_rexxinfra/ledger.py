"""The durable record of every resource: an intent before it is made, closed once it is proved to be gone.

The file is shared by all runs of a user. It is a second line of defence, after the labels on the resources
themselves, so no trouble with it stops a test: what cannot be written is remembered by its process and
written as soon as that works again.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from .deadline import Deadline
from .errors import DeadlineExceeded, RexxInfraError
from .locks import locked
from .model import Kind, Owner, Resource
from .paths import ledger_path

T = TypeVar("T")


class State(StrEnum):
    """How far the life of a resource has come."""

    INTENDED = "intended"
    LIVE = "live"
    KEPT = "kept"
    DESTROYED = "destroyed"
    CLOSED = "closed"


OPEN = frozenset(State) - {State.CLOSED}
"""The states of resources that may exist."""

_PROGRAM = 0x52585849  # application_id of our files: "RXXI"
_FORMAT = 1
_REMEMBERED = 7 * 24 * 3600.0
_PRUNED_AT_ONCE = 1000
_PATIENCE = 5.0
_PATIENCE_IN_TROUBLE = 0.02
_ATTEMPTS = 4
_COMPANIONS = ("-wal", "-shm", "-journal")

# The index finds the open entries among many closed ones, and the closed ones that are old.
_SCHEMA = f"""
CREATE TABLE resource (
    lease TEXT PRIMARY KEY, system TEXT, kind TEXT, name TEXT, run TEXT, owner TEXT, created REAL, expires REAL,
    id TEXT, image TEXT, spec TEXT, state TEXT, changed REAL, document TEXT
) WITHOUT ROWID;
CREATE INDEX resource_state ON resource (state, changed);
PRAGMA application_id = {_PROGRAM};
PRAGMA user_version = {_FORMAT};
"""
# Earlier versions wrote files without it, and get along with files that have it.
_LATER_COLUMN = "ALTER TABLE resource ADD COLUMN document TEXT"
_COLUMNS = "lease, system, kind, name, run, owner, created, expires, id, image, spec, document, state"
# The last four parameters say whether the change is news, which holds good whoever has the entry now. An entry only
# written again, into a file that may have it already, gives way to what others wrote later. So that a clock put
# back does not matter, the time of the last change only grows. A document changes by _REQUEST only, for what another
# process requested is not known here.
_PUT = f"""
INSERT INTO resource ({_COLUMNS}, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (lease) DO UPDATE SET
    run = CASE WHEN ? THEN run ELSE excluded.run END, owner = CASE WHEN ? THEN owner ELSE excluded.owner END,
    expires = CASE WHEN ? THEN expires ELSE excluded.expires END,
    id = coalesce(excluded.id, id), image = coalesce(excluded.image, image), spec = coalesce(excluded.spec, spec),
    document = coalesce(document, excluded.document), state = excluded.state, changed = max(changed, excluded.changed)
WHERE state <> 'closed' AND
    (? OR changed < excluded.changed OR (run = excluded.run AND changed = excluded.changed))
"""
_MARK = "UPDATE resource SET state = ?, changed = max(changed, ?) WHERE lease = ? AND state <> 'closed'"
_REQUEST = "UPDATE resource SET document = ? WHERE lease = ? AND state <> 'closed'"
_ADOPT = """
UPDATE resource SET state = 'live', run = ?, owner = ?, expires = ?, changed = max(changed, ?)
WHERE lease = ? AND state = 'kept' AND expires > ?
"""
_OLD = "SELECT lease FROM resource WHERE state = 'closed' AND changed < ? LIMIT ?"


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of a resource.

    Owner, run and expiry of ``resource`` are the current ones; after `Ledger.adopt` its labels still show
    the first. ``spec`` is the hash of the machine's spec, ``document`` the spec itself as `spec_document.to_text`
    has it.
    """

    resource: Resource
    state: State
    spec: str | None
    document: str | None = None


@dataclass(frozen=True)
class _Note:
    """What this process said last of a lease; without ``entry`` when another process made that."""

    state: State
    changed: float
    entry: Entry | None


class _Corrupt(sqlite3.DatabaseError):
    """The file is damaged in a way that SQLite does not see."""


class _Refused(Exception):
    """The file is sound, but not for us to write."""


class Ledger:
    """The record in the file ``path`` (default: `paths.ledger_path`), opened at the first operation.

    Any number of processes and threads may use one file, and any number of threads one ledger. No operation
    raises because of the file: ``warn`` is told, once for each different message (default: a line on standard
    error), and this process's own entries are answered from memory until they can be written. A corrupt file
    is moved aside and a new one begun.
    """

    def __init__(self, path: Path | None = None, warn: Callable[[str], None] | None = None) -> None:
        self._path = path and path.absolute()
        self._warn = warn or _to_stderr
        self._said: set[str] = set()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._patience = _PATIENCE
        self._notes: dict[str, _Note] = {}
        self._unwritten: set[str] = set()
        self._reopened = False
        self._suspect = False
        with _LOCK:
            _LEDGERS.add(self)

    def intend(self, lease: Resource, spec: str | None = None, document: str | None = None) -> None:
        """Record that ``lease`` is about to be made; ``spec`` is the hash of its spec, ``document`` the spec itself."""
        with _LOCK:
            self._note(lease.lease, State.INTENDED, Entry(lease, State.INTENDED, spec, document))
            self._write()

    def request(self, lease: str, document: str) -> None:
        """Record that a resource should be something else from now on, as ``document`` has it."""
        with _LOCK:
            note = self._notes.get(lease)
            if note and note.entry:
                self._notes[lease] = replace(note, entry=replace(note.entry, document=document))
            self._write()
            self._attempt(lambda connection: connection.execute(_REQUEST, (document, lease)))

    def made(self, resource: Resource) -> None:
        """Record that ``resource`` exists, with the id and image that it has got."""
        with _LOCK:
            note = self._notes.get(resource.lease)
            if note and note.entry:
                known = replace(note.entry.resource, id=resource.id, image=resource.image)
                entry = replace(note.entry, resource=known, state=State.LIVE)
            else:
                entry = Entry(resource, State.LIVE, None)
            self._note(resource.lease, State.LIVE, entry)
            self._write()

    def destroyed(self, leases: Iterable[str]) -> None:
        """Record that the system took the order to destroy; nobody has verified it yet."""
        self._mark(leases, State.DESTROYED)

    def closed(self, leases: Iterable[str]) -> None:
        """Record that the resources are proved to be gone. This is final."""
        self._mark(leases, State.CLOSED)

    def keep(self, leases: Iterable[str]) -> None:
        """Record that the resources may stay until they expire, and that a later run may adopt them."""
        self._mark(leases, State.KEPT)

    def adopt(self, lease: str, *, run: str, owner: Owner, expires: float) -> Entry | None:
        """Take over a kept resource that has not expired: it is live, with this run, owner and expiry.

        Of several processes that try, one gets it; the others, and all while the file cannot be written,
        get ``None``.
        """
        now = time.time()

        def take(connection: sqlite3.Connection) -> _Note | None:
            with _transaction(connection):
                if not connection.execute(_ADOPT, (run, str(owner), expires, now, lease, now)).rowcount:
                    return None
                (changed,) = connection.execute("SELECT changed FROM resource WHERE lease = ?", (lease,)).fetchone()
                return _Note(State.LIVE, changed, next(iter(self._select(connection, "lease = ?", [lease])), None))

        with _LOCK:
            self._write()
            note = self._attempt(take)
            if note is None or note.entry is None:
                return None
            self._notes[lease] = note
            return note.entry

    def entries(
        self, *, run: str | None = None, spec: str | None = None, states: Collection[State] = OPEN
    ) -> list[Entry]:
        """The entries in these states, of that run and spec if given, oldest first."""
        # What is unwritten may change the state of any open entry, so those are all looked at.
        looked_at = [str(state) for state in {*OPEN, *states}]
        where = f"state IN ({', '.join('?' * len(looked_at))})"
        for column, value in (("run", run), ("spec", spec)):
            if value is not None:
                where += f" AND {column} = ?"
                looked_at.append(value)
        found = [
            entry
            for entry in self._read(where, looked_at).values()
            if entry.state in states and run in (None, entry.resource.run) and spec in (None, entry.spec)
        ]
        return sorted(found, key=lambda entry: entry.resource.created)

    def find(self, lease: str) -> Entry | None:
        """The entry of a lease, whatever its state."""
        return self._read("lease = ?", [lease]).get(lease)

    def close(self) -> None:
        """Write what is left to write and close the file; another operation opens it again."""
        with _LOCK:
            if self._unwritten:
                self._write()
            self._disconnect()

    def _mark(self, leases: Iterable[str], state: State) -> None:
        with _LOCK:
            for lease in leases:
                note = self._notes.get(lease)
                self._note(lease, state, replace(note.entry, state=state) if note and note.entry else None)
            self._write()

    def _note(self, lease: str, state: State, entry: Entry | None) -> None:
        before = self._notes.get(lease)
        if before is None or before.state is not State.CLOSED:
            self._notes[lease] = _Note(state, max(time.time(), before.changed if before else 0.0), entry)
            self._unwritten.add(lease)

    def _write(self) -> None:
        """Write what the file lacks: what was noted since, or into a file just opened whatever is ours and open.

        Every operation begins or ends with this.
        """

        def put(connection: sqlite3.Connection) -> list[str]:
            due = list(self._notes if self._reopened else self._unwritten)
            if not due:
                return []
            with _transaction(connection):
                return [lease for lease in due if not self._put(connection, lease)]

        if self._suspect:
            self._suspect = False
            self._disconnect()
        forgettable = self._attempt(put)
        if forgettable is not None:
            self._reopened = False
            self._unwritten.clear()
            self._wait(_PATIENCE)
            for lease in forgettable:
                self._notes.pop(lease, None)

    def _put(self, connection: sqlite3.Connection, lease: str) -> bool:
        """Write one note; says whether it is to be remembered, as an open entry of ours."""
        note = self._notes[lease]
        if note.entry is None:
            connection.execute(_MARK, (str(note.state), note.changed, lease))
            return False
        known = note.entry.resource
        row = (
            lease,
            known.system,
            str(known.kind),
            known.name,
            known.run,
            str(known.owner),
            known.created,
            known.expires,
            known.id,
            known.image,
            note.entry.spec,
            note.entry.document,
            str(note.state),
            note.changed,
        )
        news = lease in self._unwritten
        written = connection.execute(_PUT, (*row, news, news, news, news)).rowcount > 0
        return written and note.state is not State.CLOSED

    def _read(self, where: str, values: list[str]) -> dict[str, Entry]:
        """By lease, the entries in the file that match, and those that this process could not write."""
        with _LOCK:
            self._write()
            found = self._attempt(lambda connection: self._select(connection, where, values))
            known = {entry.resource.lease: entry for entry in found or ()}
            incomplete = found is None or self._reopened
            for lease in self._notes if incomplete else self._unwritten:
                note = self._notes[lease]
                entry = note.entry or known.get(lease)
                if entry is not None and (lease in self._unwritten or lease not in known):
                    known[lease] = replace(entry, state=note.state)
            return known

    def _select(self, connection: sqlite3.Connection, where: str, values: list[str]) -> list[Entry]:
        found = []
        for row in connection.execute(f"SELECT {_COLUMNS} FROM resource WHERE {where}", values).fetchall():
            try:
                found.append(_entry(*row))
            except (TypeError, ValueError) as error:
                self._tell(f"the ledger {self._path} has an entry that makes no sense, left out: {row[0]!r}, {error}")
        return found

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``work`` gives, done to the file that is at the path now; ``None`` after a warning if it cannot be."""
        trouble: Exception = OSError("it is replaced again and again")
        for _ in range(_ATTEMPTS):
            try:
                result = work(self._connect())
                if not self._moved():
                    return result
            except (sqlite3.Error, OSError, RexxInfraError, _Refused) as error:
                trouble = error
                if not self._moved() and not self._cured(error):
                    break
        self._fall_back(trouble)
        return None

    def _cured(self, error: Exception) -> bool:
        """Whether there is reason to try again at once."""
        if not isinstance(error, sqlite3.Error) or not _is_corrupt(error):
            return isinstance(error, FileNotFoundError)
        try:
            self._move_aside(error)
        except (OSError, RexxInfraError):
            return False
        return True

    def _fall_back(self, error: Exception) -> None:
        code = _code(error)
        if code == sqlite3.SQLITE_BUSY or isinstance(error, DeadlineExceeded):
            self._wait(_PATIENCE_IN_TROUBLE)
        elif code != sqlite3.SQLITE_FULL:
            # Opened anew it may be better: SQLite stays read-only when it once had to be. A full disk is
            # another matter, for there is no room to open anything.
            self._suspect = True
        self._tell(
            f"the ledger {self._path or ''} cannot be used now: {getattr(error, 'message', error)}. This process "
            "remembers what it makes and writes it when that works again. The resources have their labels, by which "
            "`rexxinfra reap` finds them"
        )

    def _tell(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._warn(message)

    def _wait(self, seconds: float) -> None:
        """How long to wait for other processes: long at first, but not again in every operation."""
        if self._patience != seconds:
            self._patience = seconds
            if self._connection is not None:
                self._connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")

    def _moved(self) -> bool:
        """Whether the path leads to another file than the one that was opened, or to none."""
        if self._path is None or self._file is None:
            return False
        try:
            now = self._path.stat()
        except OSError:
            return True
        return self._file != (now.st_dev, now.st_ino)

    def _place(self) -> Path:
        self._path = (self._path or ledger_path()).absolute()
        return self._path

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and not self._moved():
            return self._connection
        self._disconnect()
        path = self._place()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with self._alone(path):
                _begin(path)
        # Taken before the file is opened: should it be replaced in between, that is seen after the work.
        now = path.stat()
        self._file = now.st_dev, now.st_ino
        log = _beside(path, "-wal")
        if not now.st_size and log.exists() and log.stat().st_size:
            raise _Corrupt("it is empty, but its log is not")
        connection = _open(path, self._patience)
        try:
            if _format(connection) != (_PROGRAM, _FORMAT):
                connection.close()
                with self._alone(path):
                    _set_up(path, self._patience)
                connection = _open(path, self._patience)
            if _is_earlier(connection):
                with self._alone(path):
                    if _is_earlier(connection):
                        connection.execute(_LATER_COLUMN)
            connection.execute("PRAGMA synchronous = NORMAL")
            _prune(connection)
        except BaseException:
            with suppress(sqlite3.Error):
                connection.close()
            raise
        self._connection = connection
        self._reopened = True
        return connection

    def _disconnect(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _alone(self, path: Path) -> AbstractContextManager[None]:
        """Keep other processes from beginning a file at ``path`` or moving one away from there."""
        return locked(_beside(path, ".lock"), deadline=Deadline(self._patience), what=f"the ledger {path}")

    def _move_aside(self, error: sqlite3.Error) -> None:
        path = self._place()
        with self._alone(path):
            if not self._moved():
                aside = _free(_beside(path, f".corrupt-{time.strftime('%Y%m%d-%H%M%S')}"))
                for suffix in ("", *_COMPANIONS):
                    with suppress(FileNotFoundError):
                        _beside(path, suffix).rename(_beside(aside, suffix))
                self._tell(
                    f"the ledger {path} was corrupt ({error}). It is now {aside}, and a new one is begun, without the "
                    "entries of other runs. Their resources have their labels, by which `rexxinfra reap` finds them"
                )
        # Only now: as the last user of a file that is in its place, SQLite would write the log into it.
        self._disconnect()


# One lock for all ledgers, so that nothing in this process is at work on any file when another is created and
# closed (which would end SQLite's locks of it), and so that a fork can wait for all of them.
_LOCK = threading.RLock()
_LEDGERS: weakref.WeakSet[Ledger] = weakref.WeakSet()


def _before_fork() -> None:
    # SQLite's knowledge of locks must not get into a child, not even to be closed there: the child would
    # believe that it has the locks of its parent.
    _LOCK.acquire()
    for ledger in _LEDGERS:
        ledger._disconnect()


def _after_fork_in_child() -> None:
    for ledger in _LEDGERS:
        ledger._notes.clear()
        ledger._unwritten.clear()
    _LOCK.release()


os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child)


def _entry(
    lease: str,
    system: str,
    kind: str,
    name: str,
    run: str,
    owner: str,
    created: float,
    expires: float,
    id: str | None,
    image: str | None,
    spec: str | None,
    document: str | None,
    state: str,
) -> Entry:
    known = Resource(
        system, Kind(kind), name, run, lease, Owner.parse(owner), float(created), float(expires), id, image
    )
    return Entry(known, State(state), spec, document)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with the right to write from the start."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")


def _begin(path: Path) -> None:
    """Make an empty file, unless there is one, that has nothing to do with what may be left of an earlier one."""
    if not path.exists():
        for suffix in _COMPANIONS:
            _beside(path, suffix).unlink(missing_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _open(path: Path, patience: float) -> sqlite3.Connection:
    """A connection, for any thread that has the lock, to a file that exists; ``patience`` in seconds."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    return connection


def _format(connection: sqlite3.Connection) -> tuple[int, int]:
    """Whose file it is, and in which of their formats."""
    (program,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return program, version


def _is_earlier(connection: sqlite3.Connection) -> bool:
    """Whether it is a ledger of a version that knew of no documents."""
    columns = [column[1] for column in connection.execute("PRAGMA table_info (resource)")]
    return bool(columns) and "document" not in columns


def _set_up(path: Path, patience: float) -> None:
    """Make a ledger of an empty database. Raises `_Refused` for any other that is not a ledger we know."""
    try:
        with closing(_open(path, patience)) as connection:
            program, version = _format(connection)
            if (program, version) == (_PROGRAM, _FORMAT):
                return
            if program == _PROGRAM:
                raise _Refused(
                    f"it was written by a newer pytest-rexxinfra (format {version}; this one knows {_FORMAT})"
                )
            if program or version or connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                raise _Refused("it is the database of another program")
            connection.execute("PRAGMA journal_mode = WAL")
            _make_tables(connection)
    except sqlite3.OperationalError as error:
        if _code(error) == sqlite3.SQLITE_BUSY:
            raise
        # No shared memory on this file system, perhaps. Who begins alone does without, and can change the mode.
        with closing(_open(path, patience)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE")
            _make_tables(connection)


def _make_tables(connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)


def _prune(connection: sqlite3.Connection) -> None:
    old = connection.execute(_OLD, (time.time() - _REMEMBERED, _PRUNED_AT_ONCE)).fetchall()
    if old:
        with suppress(sqlite3.OperationalError), _transaction(connection):
            connection.executemany("DELETE FROM resource WHERE lease = ?", old)


def _is_corrupt(error: sqlite3.Error) -> bool:
    return (
        isinstance(error, _Corrupt)
        or _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or str(error).startswith(("no such table", "unsupported file format"))
    )


def _code(error: Exception) -> int:
    """The primary result code of SQLite, https://sqlite.org/rescode.html; 0 for other errors."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _free(path: Path) -> Path:
    """``path``, or with a number after it when there is something already."""
    tried = (_beside(path, f"-{number}" if number else "") for number in count())
    return next(each for each in tried if not any(_beside(each, suffix).exists() for suffix in ("", *_COMPANIONS)))


def _to_stderr(message: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"rexxinfra: {message}\n")
