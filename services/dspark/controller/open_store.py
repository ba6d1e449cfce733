"""Which store a setting names."""

import time
from collections.abc import Mapping

from dspark.controller.store import MemoryStore, SqliteStore, Store


def open_store(
    where: str, *, owner: Mapping[str, str] | None = None, prefix: str = "dspark"
) -> Store:
    """Open ``memory``, a Redis by its URL, or the SQLite file at a path.

    Args:
        where: The setting.
        owner: Who we are, for the lease of a store that several controllers share.
        prefix: Of every key in a Redis.

    Raises:
        ValueError: It cannot be opened; the message says why.
    """
    if where == "memory":
        return MemoryStore(before=int(time.time()))
    if where.startswith(("redis://", "rediss://")):
        from dspark.controller.redis_store import RedisStore  # only who needs it loads it

        return RedisStore(where, owner=owner or {}, prefix=prefix)
    return SqliteStore(where)
