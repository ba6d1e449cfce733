"""The store of several controllers: a Redis, with the lease of the one that leads.

Every call has a deadline.  Writes are fenced: they are refused once a higher term was given, so a
leader that was only slow cannot overwrite what its successor decided.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from pydantic import TypeAdapter
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspark.controller.store import CHANGE_JSON, MAX_CHANGES, StoreLost, Superseded, Wish
from dspark.core.changes import Change
from dspark.core.ids import PoolName, Term

PASSWORD_VARIABLE = "DSPARK_REDIS_PASSWORD"

_CALL_TIMEOUT_S = 0.5
_WISH_JSON = TypeAdapter(Wish)

# KEYS: leader.  ARGV: owner, lease in ms.  Returns whether the owner holds the lease now.
_LEAD = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# KEYS: leader.  ARGV: owner.
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
# KEYS: term.  ARGV: above.  A string comes back: a Lua number would lose digits.
_NEXT_TERM = """
local last = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', last + 1))
return redis.call('GET', KEYS[1])
"""
# KEYS: term, writes, hash, list or ''.  ARGV: own term, field, text or '' to delete, length kept.
_WRITE = """
if tonumber(redis.call('GET', KEYS[1]) or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('INCR', KEYS[2])
if ARGV[3] == '' then redis.call('HDEL', KEYS[3], ARGV[2])
else redis.call('HSET', KEYS[3], ARGV[2], ARGV[3]) end
if KEYS[4] ~= '' then
  redis.call('RPUSH', KEYS[4], ARGV[3])
  redis.call('LTRIM', KEYS[4], -tonumber(ARGV[4]), -1)
end
return 1
"""


class RedisStore:
    """A Redis that one or more controllers share.

    Args:
        url: ``redis://`` or, with TLS, ``rediss://``; the password may come from the environment
            instead (DSPARK_REDIS_PASSWORD).
        owner: Who we are, in the lease: JSON that tells where we are reached.
        prefix: Of every key; systems with a Redis in common need one each.

    Raises:
        ValueError: From the constructor: the URL is none.
        StoreLost: From every other call: Redis does not answer.
    """

    def __init__(self, url: str, *, owner: Mapping[str, str], prefix: str = "dspark") -> None:
        options: dict[str, Any] = {
            "socket_timeout": _CALL_TIMEOUT_S,
            "socket_connect_timeout": _CALL_TIMEOUT_S,
            "decode_responses": True,
            # Once more after a lost connection: the server may have restarted meanwhile.
            "retry": Retry(NoBackoff(), 1),
        }
        if os.environ.get(PASSWORD_VARIABLE):
            options["password"] = os.environ[PASSWORD_VARIABLE]
        try:
            self._redis: Any = redis.Redis.from_url(url, **options)
        except ValueError as error:
            raise ValueError(f"store {url}: {error}") from None
        self._owner = json.dumps(dict(owner), sort_keys=True)
        keys = ("term", "leader", "writes", "wishes", "changes", "policies", "learned")
        self._term_key, self._leader, self._writes, *tables = (f"{prefix}:{key}" for key in keys)
        self._wishes, self._changes, self._newest, self._learned = tables
        self._term = 0

    def lead(self, lease_s: float) -> bool:
        """Take or renew the lease of the leader; return whether we hold it."""
        arguments = (self._owner, round(1000 * lease_s))
        return bool(self._call(self._redis.eval, _LEAD, 1, self._leader, *arguments))

    def leave(self) -> None:
        """Give the lease back, if we hold it."""
        self._call(self._redis.eval, _LEAVE, 1, self._leader, self._owner)

    def leader(self) -> Mapping[str, str] | None:
        """Return the owner of the lease, or None."""
        held = self._call(self._redis.get, self._leader)
        return None if held is None else dict(json.loads(held))

    def next_term(self, above: int = 0) -> Term:
        """Return a term above every one given, and above ``above``."""
        above = max(above, self._term)
        self._term = int(self._call(self._redis.eval, _NEXT_TERM, 1, self._term_key, above))
        return Term(self._term)

    def forgot(self) -> bool:
        """Whether Redis lost what it was told: it came back empty."""
        return int(self._call(self._redis.get, self._term_key) or 0) < self._term

    def revision(self) -> str:
        """Return what is another text after every write."""
        term, writes = self._call(self._redis.mget, self._term_key, self._writes)
        self._term = max(self._term, int(term or 0))
        return f"{term}.{writes}"

    def wishes(self) -> Mapping[PoolName, Wish]:
        """Return the newest wish for each pool."""
        found: Mapping[str, str] = self._call(self._redis.hgetall, self._wishes)
        return {PoolName(pool): _WISH_JSON.validate_json(text) for pool, text in found.items()}

    def save(self, wish: Wish) -> None:
        """Keep a wish.

        Raises:
            Superseded: Another controller leads.
        """
        self._write(self._wishes, wish.pool, _WISH_JSON.dump_json(wish).decode())

    def drop_wish(self, pool: PoolName) -> None:
        """Forget a wish.

        Raises:
            Superseded: Another controller leads.
        """
        self._write(self._wishes, pool, "")

    def changes(self) -> Sequence[Change]:
        """Return the changes kept, oldest first."""
        texts: Sequence[str] = self._call(self._redis.lrange, self._changes, 0, -1)
        return [CHANGE_JSON.validate_json(text) for text in texts]

    def newest_changes(self) -> Mapping[PoolName, Change]:
        """Return each pool's last change."""
        found: Mapping[str, str] = self._call(self._redis.hgetall, self._newest)
        return {PoolName(pool): CHANGE_JSON.validate_json(text) for pool, text in found.items()}

    def append(self, change: Change) -> None:
        """Keep a change.

        Raises:
            Superseded: Another controller leads.
        """
        self._write(
            self._newest, change.pool, CHANGE_JSON.dump_json(change).decode(), self._changes
        )

    def learned(self) -> str | None:
        """Return what was learned."""
        text: str | None = self._call(self._redis.hget, self._learned, "plan")
        return text

    def keep_learned(self, text: str) -> None:
        """Keep what was learned.

        Raises:
            Superseded: Another controller leads.
        """
        self._write(self._learned, "plan", text)

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _write(self, table: str, field: str, text: str, trail: str = "") -> None:
        keys = (self._term_key, self._writes, table, trail)
        arguments = (self._term, field, text, MAX_CHANGES)
        done = self._call(self._redis.eval, _WRITE, len(keys), *keys, *arguments)
        if not done:
            raise Superseded("another controller leads: ask it")

    def _call(self, call: Any, *arguments: object) -> Any:
        try:
            return call(*arguments)
        except redis.RedisError as error:
            raise StoreLost(f"the store does not answer: {error}") from None
