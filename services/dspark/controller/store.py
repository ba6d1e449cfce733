"""Store: what survives a restart: wishes, policies with their audit trail, the term."""

import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import TypeAdapter

from dspark.core.changes import Change
from dspark.core.fleet import Role
from dspark.core.ids import PoolName, Term

MAX_CHANGES = 2000
"""Changes of policies that are kept; the newest of each pool is kept besides."""

CHANGE_JSON = TypeAdapter(Change)
"""How a change is written down."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS term (term INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS wish (
    pool TEXT PRIMARY KEY, role TEXT NOT NULL, replicas INTEGER NOT NULL,
    author TEXT NOT NULL, reason TEXT NOT NULL, unix_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS change (number INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS policy (pool TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS learned (one INTEGER PRIMARY KEY, text TEXT NOT NULL);
"""


class StoreLost(ConnectionError):
    """The store does not answer; what was known of it stays in force."""


class Superseded(ValueError):
    """Another controller leads, and writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many replicas somebody asked for in a pool.

    Attributes:
        pool: The pool.
        role: What its replicas are, so that a pool at zero is still shown.
        replicas: 0 is a wish.
        author: Who asked.
        reason: Why.
        unix_s: When.
    """

    pool: PoolName
    role: Role
    replicas: int
    author: str
    reason: str
    unix_s: float


class Store(Protocol):
    """What the controller needs of a store; every call may raise StoreLost."""

    def lead(self, lease_s: float) -> bool:
        """Take or renew the lease of the leader; return whether we hold it."""

    def leave(self) -> None:
        """Give the lease back, if we hold it."""

    def leader(self) -> Mapping[str, str] | None:
        """Say who leads and where it is reached; None: nobody, or only we can."""

    def forgot(self) -> bool:
        """Whether the store lost what it was told, and has to be told again."""

    def revision(self) -> str:
        """Return what is another text after every write of anybody; a standby asks for it."""

    def next_term(self, above: int = 0) -> Term:
        """Return a term above every one that this store has given, and above ``above``."""

    def wishes(self) -> Mapping[PoolName, Wish]:
        """Return the newest wish for each pool."""

    def save(self, wish: Wish) -> None:
        """Keep a wish; it is durable when this returns."""

    def drop_wish(self, pool: PoolName) -> None:
        """Forget a wish; that is durable when this returns."""

    def changes(self) -> Sequence[Change]:
        """Return the changes of policies that are kept, oldest first."""

    def newest_changes(self) -> Mapping[PoolName, Change]:
        """Return each pool's last change."""

    def append(self, change: Change) -> None:
        """Keep a change; it is durable when this returns."""

    def learned(self) -> str | None:
        """Return what ``keep_learned`` kept last."""

    def keep_learned(self, text: str) -> None:
        """Keep what was learned, in place of what was before."""

    def close(self) -> None:
        """Let another process open the store."""


class _OfOne:
    """The lease of a store that only one process can open."""

    def lead(self, lease_s: float) -> bool:
        """We lead: nobody else is here."""
        return True

    def leave(self) -> None:
        """Nobody waits for it."""

    def leader(self) -> Mapping[str, str] | None:
        """Only we can."""
        return None

    def forgot(self) -> bool:
        """It is part of this process, or of its disk."""
        return False

    def revision(self) -> str:
        """Nobody else writes."""
        return ""


class MemoryStore(_OfOne):
    """Forgets everything with the process.

    Attributes:
        before: Terms given are above this one.  Replicas outlive a controller and refuse the
            budgets of an older term, so a process without a memory starts from the clock.
    """

    def __init__(self, *, before: int = 0) -> None:
        self._term = before
        self._wishes: dict[PoolName, Wish] = {}
        self._changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self._newest: dict[PoolName, Change] = {}
        self._learned: str | None = None

    def next_term(self, above: int = 0) -> Term:
        """Return the next one."""
        self._term = max(self._term, above) + 1
        return Term(self._term)

    def wishes(self) -> Mapping[PoolName, Wish]:
        """Return the newest wish for each pool."""
        return dict(self._wishes)

    def save(self, wish: Wish) -> None:
        """Keep a wish."""
        self._wishes[wish.pool] = wish

    def drop_wish(self, pool: PoolName) -> None:
        """Forget a wish."""
        self._wishes.pop(pool, None)

    def changes(self) -> Sequence[Change]:
        """Return the changes kept, oldest first."""
        return list(self._changes)

    def newest_changes(self) -> Mapping[PoolName, Change]:
        """Return each pool's last change."""
        return dict(self._newest)

    def append(self, change: Change) -> None:
        """Keep a change."""
        self._changes.append(change)
        self._newest[change.pool] = change

    def learned(self) -> str | None:
        """Return what was learned."""
        return self._learned

    def keep_learned(self, text: str) -> None:
        """Keep what was learned."""
        self._learned = text

    def close(self) -> None:
        """Nothing to let go."""


class SqliteStore(_OfOne):
    """One file, for one controller: a second one that opens it is refused.

    Raises:
        StoreLost: From every method: the file cannot be read or written any more.
    """

    def __init__(self, path: str) -> None:
        """Open or create the file.

        Raises:
            ValueError: It cannot be opened, is no SQLite file, or another controller holds it.
        """
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
        except sqlite3.Error as error:
            raise ValueError(f"store {path}: {error}") from None
        try:
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("BEGIN EXCLUSIVE")  # held until close
            self._connection.execute("COMMIT")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._connection.close()
            if "locked" in str(error):
                raise ValueError(f"store {path} is in use by another controller") from None
            raise ValueError(f"store {path}: {error}") from None

    def next_term(self, above: int = 0) -> Term:
        """Return the previous term of this file and one, or ``above`` and one."""
        ((last,),) = self._read("SELECT MAX(term) FROM term")
        term = Term(max(last or 0, above) + 1)
        self._write(("DELETE FROM term", ()), ("INSERT INTO term VALUES (?)", (term,)))
        return term

    def wishes(self) -> Mapping[PoolName, Wish]:
        """Return the newest wish for each pool."""
        rows = self._read("SELECT pool, role, replicas, author, reason, unix_s FROM wish")
        return {
            PoolName(pool): Wish(
                pool=PoolName(pool),
                role=Role(role),
                replicas=replicas,
                author=author,
                reason=reason,
                unix_s=unix_s,
            )
            for pool, role, replicas, author, reason, unix_s in rows
        }

    def save(self, wish: Wish) -> None:
        """Keep a wish; it is on disk when this returns."""
        row = (wish.pool, wish.role.value, wish.replicas, wish.author, wish.reason, wish.unix_s)
        self._write(("INSERT OR REPLACE INTO wish VALUES (?, ?, ?, ?, ?, ?)", row))

    def drop_wish(self, pool: PoolName) -> None:
        """Forget a wish; it is gone from the disk when this returns."""
        self._write(("DELETE FROM wish WHERE pool = ?", (pool,)))

    def changes(self) -> Sequence[Change]:
        """Return the changes kept, oldest first."""
        rows = self._read("SELECT text FROM change ORDER BY number")
        return [CHANGE_JSON.validate_json(text) for (text,) in rows]

    def newest_changes(self) -> Mapping[PoolName, Change]:
        """Return each pool's last change."""
        rows = self._read("SELECT pool, text FROM policy")
        return {PoolName(pool): CHANGE_JSON.validate_json(text) for pool, text in rows}

    def append(self, change: Change) -> None:
        """Keep a change; it is on disk when this returns."""
        text = CHANGE_JSON.dump_json(change).decode()
        oldest_kept = change.number - MAX_CHANGES
        self._write(
            ("INSERT INTO change VALUES (?, ?)", (change.number, text)),
            ("INSERT OR REPLACE INTO policy VALUES (?, ?)", (change.pool, text)),
            ("DELETE FROM change WHERE number <= ?", (oldest_kept,)),
        )

    def learned(self) -> str | None:
        """Return what was learned."""
        rows = self._read("SELECT text FROM learned")
        return str(rows[0][0]) if rows else None

    def keep_learned(self, text: str) -> None:
        """Keep what was learned."""
        self._write(("INSERT OR REPLACE INTO learned VALUES (1, ?)", (text,)))

    def close(self) -> None:
        """Let another controller open the file."""
        self._connection.close()

    def _read(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query).fetchall()
        except sqlite3.Error as error:
            raise StoreLost(f"the store cannot be read: {error}") from None

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """Execute all of the statements or none."""
        try:
            self._connection.execute("BEGIN")
            for statement, values in statements:
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise StoreLost(f"the store cannot be written: {error}") from None
