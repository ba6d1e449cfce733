import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from dspark.core.pages import PageAllocator, page_hashes
from dspark.prefill.engine import Chunk, Job, Overloaded, PrefillEngine
from tests.fakes import PAGE_TOKENS, VOCAB, FakeTarget

CHUNK = 8


class Reader:
    """A prompt and who reads it; ``taken`` is said by the test."""

    def __init__(
        self, tokens: Sequence[int], held: Sequence[bytes] = (), *, want_rows: bool = True
    ) -> None:
        self.chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self.job = Job(tuple(tokens), tuple(held), want_rows, self.chunks.put)

    def next(self) -> Chunk:
        chunk = self.chunks.get(timeout=10.0)
        assert chunk is not None, "the engine stopped"
        return chunk


class Bench:
    def __init__(self, num_pages: int, **bounds: int) -> None:
        self.target = FakeTarget(num_pages, max_context_tokens=bounds.get("max_context", 4096))
        self.engine = PrefillEngine(
            self.target,
            PageAllocator(num_pages, PAGE_TOKENS),
            chunk_tokens=CHUNK,
            max_waiting=bounds.get("max_waiting", 4),
            model_name="fake",
            hash_root=b"root",
        )

    def submit(self, tokens: Sequence[int], *held: bytes, want_rows: bool = True) -> Reader:
        reader = Reader(tokens, held, want_rows=want_rows)
        self.engine.submit(reader.job)
        return reader

    def read(self, reader: Reader) -> list[Chunk]:
        """Read a prompt to its end."""
        chunks = []
        while not chunks or chunks[-1].last_logits is None:
            chunks.append(reader.next())
            self.engine.taken(reader.job)
        return chunks

    def run(self, tokens: Sequence[int], *held: bytes) -> list[Chunk]:
        return self.read(self.submit(tokens, *held))


@contextmanager
def bench(num_pages: int = 64, **bounds: int) -> Iterator[Bench]:
    made = Bench(num_pages, **bounds)
    made.engine.start()
    try:
        yield made
        assert made.engine.failure is None
    finally:
        made.engine.stop()
    made.engine.pages.check()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [(seed * 13 + index * 7) % VOCAB for index in range(length)]


def hashes(tokens: Sequence[int]) -> tuple[bytes, ...]:
    return page_hashes(tokens, PAGE_TOKENS, root=b"root")


def spans(chunks: Sequence[Chunk]) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.num_tokens) for chunk in chunks]


def kv_of(chunks: Sequence[Chunk]) -> list[int]:
    return [int(value) for chunk in chunks for value in chunk.kv[0].reshape(-1)]


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 9, 16, 29])
def test_chunks_cover_the_prompt_exactly_and_the_last_one_has_logits(length: int) -> None:
    tokens = prompt(length)
    with bench() as it:
        chunks = it.run(tokens)
        assert kv_of(chunks) == tokens
        assert [chunk.start for chunk in chunks] == list(range(0, length, CHUNK))
        assert sum(chunk.num_tokens for chunk in chunks) == length
        assert all(chunk.start % PAGE_TOKENS == 0 for chunk in chunks)
        assert [chunk.last_logits is not None for chunk in chunks][:-1] == [False] * (
            len(chunks) - 1
        )
        logits = chunks[-1].last_logits
        assert logits is not None
        assert logits.tolist() == tokens  # the fake's logits are the context
        assert it.engine.prompt_tokens == length


def test_rows_are_sent_only_where_they_are_wanted() -> None:
    with bench() as it:
        (with_rows,) = it.run(prompt(5))
        assert with_rows.rows is not None
        assert with_rows.rows[:, 0].tolist() == prompt(5)
        reader = it.submit(prompt(5), want_rows=False)
        assert it.read(reader)[0].rows is None


@pytest.mark.parametrize("num_held", [1, 2, 3, 5])
def test_pages_that_the_caller_holds_are_not_sent(num_held: int) -> None:
    tokens = prompt(22)
    with bench() as it:
        chunks = it.run(tokens, *hashes(tokens)[:num_held])
        assert kv_of(chunks) == tokens[num_held * PAGE_TOKENS :]
        assert chunks[0].start == num_held * PAGE_TOKENS


def test_a_caller_that_holds_everything_still_gets_the_last_token_and_its_logits() -> None:
    tokens = prompt(16)
    with bench() as it:
        chunks = it.run(tokens, *hashes(tokens))
        assert spans(chunks) == [(12, 4)]


def test_pages_of_other_tokens_are_not_taken_for_held() -> None:
    tokens = prompt(16)
    other = hashes([*tokens[:4], 1, 2, 3, 4])
    with bench() as it:
        assert it.run(tokens, *other)[0].start == 4
        assert it.run(tokens, b"?")[0].start == 0


def test_a_prefix_that_was_run_before_is_not_run_again() -> None:
    tokens = prompt(32)
    with bench() as it:
        it.run(tokens)
        before = it.engine.prompt_tokens
        chunks = it.run([*tokens, 1, 2, 3])
        assert it.engine.prompt_tokens - before == 3
        assert {chunk.cached_tokens for chunk in chunks} == {32}
        assert kv_of(chunks) == [*tokens, 1, 2, 3]


def test_a_prefix_that_is_cached_here_and_held_there_is_neither_run_nor_sent() -> None:
    tokens = prompt(32)
    with bench() as it:
        it.run(tokens)
        chunks = it.run([*tokens, 1], *hashes(tokens)[:6])
        assert kv_of(chunks) == [*tokens[24:], 1]


def test_a_slow_reader_holds_up_only_itself() -> None:
    with bench() as it:
        slow = it.submit(prompt(80, 1))
        fast = it.run(prompt(80, 2))
        assert len(fast) == 10
        assert [slow.next().start for _ in range(4)] == [0, 8, 16, 24]
        assert slow.chunks.empty()
        it.engine.taken(slow.job)
        assert slow.next().start == 32
        for _ in range(4):
            it.engine.taken(slow.job)
        assert [chunk.start for chunk in it.read(slow)] == [40, 48, 56, 64, 72]


def test_a_cached_prefix_too_is_sent_no_faster_than_it_is_read() -> None:
    tokens = prompt(80)
    with bench() as it:
        it.run(tokens)
        again = it.submit([*tokens, 5])
        assert [again.next().start for _ in range(4)] == [0, 8, 16, 24]
        other = it.run(prompt(9, 3))
        assert len(other) == 2
        assert again.chunks.empty()
        for _ in range(4):
            it.engine.taken(again.job)
        assert kv_of(it.read(again)) == [*tokens[32:], 5]


def test_prompts_take_turns_chunk_by_chunk() -> None:
    order: list[int] = []

    class Noting(FakeTarget):
        def run(
            self, tokens: Sequence[int], start: int, pages: Sequence[int], *, want_logits: bool
        ) -> NDArray[np.float32] | None:
            order.append(tokens[0])
            return super().run(tokens, start, pages, want_logits=want_logits)

    made = Bench(64)
    made.engine = PrefillEngine(
        Noting(64),
        made.engine.pages,
        chunk_tokens=CHUNK,
        max_waiting=4,
        model_name="fake",
        hash_root=b"",
    )
    readers = [made.submit([seed] * 24) for seed in (1, 2)]
    made.engine.start()
    for reader in readers:
        made.read(reader)
    made.engine.stop()
    assert order == [1, 2, 1, 2, 1, 2]


def test_cancelling_frees_the_pages_of_a_running_and_the_place_of_a_waiting_prompt() -> None:
    with bench(num_pages=8, max_waiting=2) as it:
        running = it.submit(prompt(32))
        running.next()
        waiting = [it.submit(prompt(32, seed)) for seed in (1, 2)]
        with pytest.raises(Overloaded, match="2 prompts are waiting"):
            it.submit(prompt(4))
        it.engine.cancel(waiting[1].job)
        third = it.submit(prompt(32, 3))
        it.engine.cancel(running.job)
        it.engine.cancel(waiting[0].job)
        assert kv_of(it.read(third)) == prompt(32, 3)
        last = it.submit(prompt(32, 4))
        it.read(last)
        assert waiting[1].chunks.empty()


def test_all_pages_are_free_when_all_prompts_are_done() -> None:
    with bench(num_pages=16) as it:
        for seed in range(6):
            it.run(prompt(40, seed))
        done = it.submit(prompt(40, 9))
        it.read(done)
        it.run(prompt(64, 8))  # needs every page there is
        assert it.engine.num_waiting == 0


@pytest.mark.parametrize("tokens", [[], [1] * 33, [0, VOCAB]])
def test_what_can_never_run_here_is_refused(tokens: list[int]) -> None:
    match = rf"token {VOCAB} is outside 0..{VOCAB - 1}" if VOCAB in tokens else "1 to 32 fit here"
    with bench(num_pages=16, max_context=32) as it, pytest.raises(ValueError, match=match):
        it.submit(tokens)


def test_a_chunk_that_is_no_whole_number_of_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="6 is not a multiple of the page size 4"):
        PrefillEngine(
            FakeTarget(4),
            PageAllocator(4, PAGE_TOKENS),
            chunk_tokens=6,
            max_waiting=1,
            model_name="fake",
            hash_root=b"",
        )


def test_open_prompts_hear_of_the_end_and_so_do_later_ones() -> None:
    made = Bench(16)
    made.engine.start()
    running, waiting = made.submit(prompt(64)), made.submit(prompt(64, 1))
    for _ in range(4):
        running.next()
    made.engine.stop()
    assert running.chunks.get(timeout=10.0) is None
    assert waiting.chunks.get(timeout=10.0) is None
    assert made.submit(prompt(4)).chunks.get(timeout=10.0) is None
