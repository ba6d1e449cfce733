from dspark.bench.record import Counts, read_counts
from tests.bench.examples import served


def test_counts_are_read_from_both_parts_of_the_metrics() -> None:
    metrics = {
        "speculative_decoding": {
            "num_spec_steps": 4, "num_draft_tokens": 9, "num_accepted_draft_tokens": 6,
        },
        "dspark": {
            "steps": 5, "plain_steps": 1, "drafted_tokens": 12, "row_bytes": 100, "draft_bytes": 20,
        },
    }  # fmt: skip
    assert read_counts(metrics) == Counts(
        steps=5, plain_steps=1, drafted_steps=4, drafted_tokens=12, verified_tokens=9,
        accepted_tokens=6, moved_bytes=120,
    )  # fmt: skip


def test_a_server_without_counts_counts_nothing() -> None:
    assert read_counts({"speculative_decoding": None}) == Counts()


def test_counts_add_up() -> None:
    assert Counts(steps=1, moved_bytes=2) + Counts(steps=3) == Counts(steps=4, moved_bytes=2)


def test_outputs_are_the_same_by_tokens_and_text() -> None:
    one = served((1.0, 2))
    assert one.same_output(served((1.0, 1), (5.0, 1)))
    assert not one.same_output(served((1.0, 3)))
    assert not one.same_output(served((1.0, 2), text="y"))
    assert not served().same_output(served())
