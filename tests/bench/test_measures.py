import pytest

from dspark.bench.measures import count_differing, measure, percentile
from dspark.bench.record import Counts
from tests.bench.examples import a_cell, a_record, served


def test_throughput_counts_while_all_users_were_busy() -> None:
    cell = a_cell(load=2, requests=2)
    record = a_record(
        cell, served((1.0, 1), (2.0, 3)), served((1.0, 1), (4.0, 3), index=1), whole_until_s=2.0
    )
    measures = measure(record)
    assert measures.tokens_per_s == 2.5
    assert measures.num_tokens == 8


def test_a_users_speed_leaves_out_the_wait_for_the_first_tokens() -> None:
    measures = measure(a_record(a_cell(), served((5.0, 2), (6.0, 3), (7.0, 3)), whole_until_s=7.0))
    assert measures.user_tokens_per_s == 3.0
    assert measures.ttft_p50_ms == 5000.0


def test_tokens_that_come_together_share_their_gap() -> None:
    record = a_record(a_cell(), served((0.0, 1), (0.4, 4), (1.0, 1)), whole_until_s=1.0)
    measures = measure(record)
    assert measures.token_p50_ms == pytest.approx(100.0)
    assert measures.token_p99_ms == pytest.approx(600.0)
    assert measures.round_p50_ms == pytest.approx(400.0)


def test_counts_become_shares() -> None:
    counts = Counts(
        steps=5, plain_steps=1, drafted_steps=4, drafted_tokens=28, verified_tokens=14,
        accepted_tokens=7, moved_bytes=130,
    )  # fmt: skip
    measures = measure(
        a_record(a_cell(), served((1.0, 1), (2.0, 12), counts=counts), whole_until_s=2.0)
    )
    assert measures.accepted_length == 2.75
    assert measures.tokens_per_step == 2.4
    assert measures.verified_per_request == 14
    assert measures.wasted_share == 0.5
    assert measures.verified_share == 0.5
    assert measures.steps_per_request == 5
    assert measures.plain_share == 0.2
    assert measures.bytes_per_token == 10


def test_what_was_not_there_is_absent_not_zero() -> None:
    measures = measure(a_record(a_cell(), served((1.0, 4)), whole_until_s=0.0))
    assert measures.tokens_per_s is None
    assert measures.user_tokens_per_s is None
    assert measures.token_p50_ms is None
    assert measures.accepted_length is None
    assert measures.wasted_share is None


def test_differing_outputs_are_counted() -> None:
    cell = a_cell(requests=2)
    mine = a_record(cell, served((1.0, 2)), served((1.0, 2), index=1), whole_until_s=1.0)
    other = a_record(cell, served((9.0, 2)), served((1.0, 3), index=1), whole_until_s=1.0)
    assert count_differing(mine, mine) == 0
    assert count_differing(mine, other) == 1


def test_a_percentile_is_a_value_that_was_there() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([3.0], 0.99) == 3.0
