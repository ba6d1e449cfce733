from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dspark.core.pages import PageAllocator, PageTable, page_hashes

PAGE = 4


def test_hashes_are_chained_over_full_pages() -> None:
    first = page_hashes([1, 2, 3, 4, 5, 6, 7, 8, 9], PAGE)
    assert len(first) == 2
    assert page_hashes([1, 2, 3, 4], PAGE) == first[:1]
    assert page_hashes([0, 2, 3, 4, 5, 6, 7, 8], PAGE)[1] != first[1]
    assert page_hashes([1, 2, 3, 4], PAGE, root=b"other model") != first[:1]


def test_a_reservation_is_all_or_nothing() -> None:
    pages = PageAllocator(3, PAGE)
    held = pages.reserve(5)
    assert held is not None
    assert len(held.pages) == 2
    assert pages.reserve(5) is None
    assert pages.free_pages == 1
    pages.release(held)
    assert pages.free_pages == 3


def test_a_published_prefix_is_shared_while_held_and_after() -> None:
    pages = PageAllocator(8, PAGE)
    hashes = page_hashes(list(range(10)), PAGE)
    first = pages.reserve(12)
    assert first is not None
    assert first.cached_tokens == 0
    pages.publish(first, hashes)
    second = pages.reserve(12, hashes)
    assert second is not None
    assert (second.cached_tokens, second.pages[:2]) == (8, first.pages[:2])
    assert pages.free_pages == 4
    pages.release(first)
    pages.release(second)
    assert (pages.free_pages, pages.cached_pages) == (8, 2)
    third = pages.reserve(9, hashes[:1])
    assert third is not None
    assert (third.cached_tokens, third.pages[0]) == (4, first.pages[0])


def test_the_tail_of_the_oldest_chain_is_evicted_first() -> None:
    pages = PageAllocator(4, PAGE)
    chains = [page_hashes([name] * 8, PAGE) for name in (1, 2)]
    for chain in chains:
        table = pages.reserve(8)
        assert table is not None
        pages.publish(table, chain)
        pages.release(table)
    assert pages.reserve(1) is not None
    assert [pages.cached_prefix(chain) for chain in chains] == [1, 2]


def test_a_table_is_released_once() -> None:
    pages = PageAllocator(2, PAGE)
    table = pages.reserve(1)
    assert table is not None
    pages.release(table)
    with pytest.raises(AssertionError, match="released once"):
        pages.release(table)


def test_impossible_pools_and_reservations_are_refused() -> None:
    with pytest.raises(ValueError, match="no pool"):
        PageAllocator(0, PAGE)
    with pytest.raises(ValueError, match="0 tokens"):
        PageAllocator(1, PAGE).reserve(0)


class Pool(RuleBasedStateMachine):
    """Random sessions over few token values, so that prefixes collide often."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(9, PAGE)
        self.held: list[tuple[PageTable, tuple[bytes, ...]]] = []
        self.written: dict[int, bytes] = {}

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=17), extra=st.integers(0, 9))
    def admit(self, prompt: list[int], extra: int) -> None:
        hashes = page_hashes(prompt[:-1], PAGE)
        before = self.pages.free_pages
        table = self.pages.reserve(len(prompt) + extra, hashes)
        if table is None:
            assert self.pages.free_pages == before
            return
        shared = table.cached_tokens // PAGE
        in_use = {page for other, _ in self.held for page in other.pages}
        assert not in_use & set(table.pages[shared:]), "a fresh page is held by another"
        for page, digest in zip(table.pages[:shared], hashes, strict=False):
            assert self.written[page] == digest, "a shared page holds something else"
        for index, page in enumerate(table.pages[shared:], start=shared):
            # What the session will compute there: only fresh pages are written.
            self.written[page] = hashes[index] if index < len(hashes) else b"private"
        self.held.append((table, hashes))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        table, hashes = data.draw(st.sampled_from(self.held))
        self.pages.publish(table, hashes)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        table, _ = self.held.pop(index)
        self.pages.release(table)

    @invariant()
    def nothing_is_lost_or_given_twice(self) -> None:
        self.pages.check()
        holders = Counter(page for table, _ in self.held for page in table.pages)
        assert self.pages.free_pages == 9 - len(holders)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
