from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from dspark.controller.policies import Ask, Policies
from dspark.controller.redis_store import PASSWORD_VARIABLE, RedisStore
from dspark.controller.store import CHANGE_JSON, MAX_CHANGES, StoreLost, Superseded, Wish
from dspark.core.fleet import Role
from dspark.core.ids import PoolName
from dspark.core.policy import Policy
from tests.controller.redis_server import RedisServer, a_redis

POOL = PoolName("verifier")
WISH = Wish(pool=POOL, role=Role.VERIFIER, replicas=2, author="ada", reason="x", unix_s=1.5)
ASK = Ask(author="ada", reason="a test", unix_s=0.0)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with a_redis() as running:
        yield running


def a_store(server: RedisServer, name: str = "one") -> RedisStore:
    return RedisStore(server.url, owner={"id": name, "api": f"http://{name}"})


def test_one_holds_the_lease_and_the_other_takes_it_when_it_is_given_back(
    server: RedisServer,
) -> None:
    one, two = a_store(server, "one"), a_store(server, "two")
    assert one.lead(30.0)
    assert one.lead(30.0), "renewed"
    assert not two.lead(30.0)
    assert two.leader() == {"id": "one", "api": "http://one"}
    two.leave()
    assert not two.lead(30.0), "nobody gives back what is another's"
    one.leave()
    assert two.lead(30.0)
    one.close()
    two.close()


def test_systems_with_a_redis_in_common_know_nothing_of_each_other(server: RedisServer) -> None:
    one = RedisStore(server.url, owner={"id": "a"}, prefix="dspark:serving:a")
    other = RedisStore(server.url, owner={"id": "b"}, prefix="dspark:serving:b")
    assert one.lead(10.0)
    assert other.lead(10.0)
    one.next_term()
    one.save(WISH)
    assert one.wishes() == {POOL: WISH}
    assert other.wishes() == {}
    one.close()
    other.close()


def test_a_lease_runs_out_by_itself(server: RedisServer) -> None:
    one, two = a_store(server, "one"), a_store(server, "two")
    assert one.lead(0.05)
    while not two.lead(30.0):
        pass
    assert not one.lead(30.0)
    one.close()
    two.close()


def test_terms_grow_over_all_controllers_and_above_what_replicas_hold(server: RedisServer) -> None:
    one, two = a_store(server), a_store(server)
    assert (one.next_term(), two.next_term()) == (1, 2)
    assert one.next_term(above=2**40) == 2**40 + 1
    assert two.next_term() == 2**40 + 2
    one.close()
    two.close()


def test_what_one_decides_the_next_one_finds(server: RedisServer) -> None:
    one, two = a_store(server), a_store(server)
    one.next_term()
    one.save(WISH)
    first, second = Policies(one), Policies(two)
    for cap in (1, 2):
        first.set(POOL, Policy(cap=cap), ASK)
    two.next_term()
    second.load()
    assert two.wishes() == {POOL: WISH}
    assert list(second.history()) == list(first.history())
    assert second.roll_back(POOL, ASK).policy == Policy(cap=1)
    one.close()
    two.close()


def test_a_leader_that_was_superseded_writes_nothing(server: RedisServer) -> None:
    one, two = a_store(server), a_store(server)
    one.next_term()
    two.next_term()
    policies = Policies(one)
    with pytest.raises(Superseded, match="another controller leads"):
        policies.set(POOL, Policy(cap=1), ASK)
    with pytest.raises(Superseded):
        one.save(WISH)
    assert policies.version(POOL) == 0
    assert (two.wishes(), two.changes()) == ({}, [])
    one.close()
    two.close()


def test_the_history_is_bounded(server: RedisServer) -> None:
    store = a_store(server)
    store.next_term()
    change = Policies(store).set(POOL, Policy(cap=1), ASK)
    text = CHANGE_JSON.dump_json(change).decode()
    with redis.Redis(port=server.port) as client:
        client.rpush("dspark:changes", *[text] * MAX_CHANGES)
    store.append(replace(change, number=2))
    kept = store.changes()
    assert (len(kept), kept[-1].number) == (MAX_CHANGES, 2)
    store.close()


def test_a_lost_store_is_said_and_a_returned_one_is_told_again(server: RedisServer) -> None:
    store = a_store(server)
    term = store.next_term()
    policies = Policies(store)
    policies.set(POOL, Policy(cap=1), ASK)
    server.stop()
    for call in (lambda: store.lead(1.0), lambda: policies.set(POOL, Policy(cap=2), ASK)):
        with pytest.raises(StoreLost, match="does not answer"):
            call()
    assert policies.in_force(0.0)[POOL] == Policy(cap=1), "what was known stays in force"
    server.start()
    assert store.forgot()
    store.next_term(above=term)
    policies.tell_store()
    assert not store.forgot()
    assert store.newest_changes()[POOL].policy == Policy(cap=1)
    store.close()


def test_the_password_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    with a_redis(password="secret") as server:
        store = a_store(server)
        with pytest.raises(StoreLost, match="authenticate"):
            store.lead(1.0)
        store.close()
        monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
        store = a_store(server)
        assert store.lead(1.0)
        store.close()


def test_tls_and_a_password_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_redis("secret", tls=tmp_path) as server:
        monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
        store = a_store(server)
        store.save(WISH)
        assert store.wishes() == {POOL: WISH}
        store.close()
        # Nobody is trusted whose certificate is not known, and nothing goes in the clear.
        for url in (server.url.partition("?")[0], server.url.replace("rediss", "redis")):
            stranger = RedisStore(url.partition("?")[0], owner={})
            with pytest.raises(StoreLost):
                stranger.wishes()
            stranger.close()


def test_what_was_learned_is_kept_and_a_dropped_wish_is_gone(server: RedisServer) -> None:
    one, two = a_store(server), a_store(server)
    assert one.learned() is None
    one.keep_learned("first")
    one.keep_learned("second")
    assert two.learned() == "second"
    one.save(WISH)
    one.drop_wish(POOL)
    assert two.wishes() == {}
    one.close()
    two.close()
