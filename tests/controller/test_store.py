from collections.abc import Iterator
from pathlib import Path

import pytest

from dspark.controller.open_store import open_store
from dspark.controller.store import MemoryStore, SqliteStore, Store, StoreLost, Wish
from dspark.core.fleet import Role
from dspark.core.ids import PoolName

DRAFTER = PoolName("drafter")


def a_wish(replicas: int) -> Wish:
    return Wish(
        pool=DRAFTER,
        role=Role.DRAFTER,
        replicas=replicas,
        author="ada",
        reason="a test",
        unix_s=1.5,
    )


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = open_store("memory" if request.param == "memory" else str(tmp_path / "c.sqlite"))
    yield opened
    opened.close()


def test_terms_grow(store: Store) -> None:
    first = store.next_term()
    assert first >= 1
    assert store.next_term() == first + 1


def test_a_store_without_a_memory_starts_above_the_terms_of_its_predecessor() -> None:
    early = open_store("memory").next_term()
    assert early > 1_700_000_000, "the clock, not 1: replicas refuse budgets of an older term"


def test_the_newest_wish_of_a_pool_is_kept(store: Store) -> None:
    assert store.wishes() == {}
    store.save(a_wish(3))
    store.save(a_wish(0))
    assert store.wishes() == {DRAFTER: a_wish(0)}


def test_a_file_survives_its_controller(tmp_path: Path) -> None:
    where = str(tmp_path / "c.sqlite")
    first = open_store(where)
    assert first.next_term() == 1
    first.save(a_wish(2))
    first.close()
    second = open_store(where)
    assert second.next_term() == 2
    assert second.wishes() == {DRAFTER: a_wish(2)}
    second.close()


def test_a_second_controller_on_the_same_file_is_refused(tmp_path: Path) -> None:
    where = str(tmp_path / "c.sqlite")
    first = open_store(where)
    with pytest.raises(ValueError, match="in use by another controller"):
        open_store(where)
    first.close()
    open_store(where).close()


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_text("these are not the bytes of a database, whatever the name of the file says")
    with pytest.raises(ValueError, match=r"c\.sqlite: file is not a database"):
        open_store(str(path))
    with pytest.raises(ValueError, match="unable to open"):
        open_store(str(tmp_path / "nowhere" / "c.sqlite"))


def test_memory_forgets_with_the_process() -> None:
    MemoryStore().save(a_wish(1))
    assert MemoryStore().wishes() == {}


def test_a_wish_is_taken_back(store: Store) -> None:
    store.save(a_wish(3))
    store.drop_wish(DRAFTER)
    store.drop_wish(PoolName("nobody"))
    assert store.wishes() == {}


def test_what_was_learned_is_replaced(store: Store) -> None:
    assert store.learned() is None
    store.keep_learned("first")
    store.keep_learned("second")
    assert store.learned() == "second"


def test_a_file_that_cannot_be_written_is_a_lost_store_and_half_a_change_is_none(
    tmp_path: Path,
) -> None:
    opened = open_store(str(tmp_path / "c.sqlite"))
    assert isinstance(opened, SqliteStore)
    opened.save(a_wish(1))
    opened._connection.execute("PRAGMA query_only = ON")  # as a full or read-only disk
    with pytest.raises(StoreLost, match="cannot be written"):
        opened.save(a_wish(2))
    opened._connection.execute("PRAGMA query_only = OFF")
    opened.save(a_wish(3))
    assert opened.wishes() == {DRAFTER: a_wish(3)}
    opened.close()
