import pytest

from dspark_kernels.segments import Segments, slots_of


def test_slots_follow_the_block_table() -> None:
    assert slots_of([5, 2], 3, 6, page_tokens=4).tolist() == [23, 8, 9]


def test_new_slots_and_positions_are_those_of_the_new_tokens() -> None:
    segments = Segments.of([[5, 2], [0]], [3, 0], [2, 3], page_tokens=4)
    assert segments.new_slots().tolist() == [23, 8, 0, 1, 2]
    assert segments.positions().tolist() == [3, 4, 0, 1, 2]
    assert segments.num_tokens == 5


def test_each_query_head_sees_its_own_key_head_up_to_its_position() -> None:
    segments = Segments.of([[1]], [1], [2], page_tokens=4)
    (tile,) = segments.tiles(num_query_heads=2, num_kv_heads=2, sliding_window=None)
    assert tile.offsets.tolist() == [0, 2, 4, 7, 10]
    assert tile.key_rows.tolist() == [8, 10, 9, 11, 8, 10, 12, 9, 11, 13]


def test_a_sliding_window_hides_older_keys() -> None:
    segments = Segments.of([[0]], [3], [1], page_tokens=4)
    (tile,) = segments.tiles(num_query_heads=1, num_kv_heads=1, sliding_window=2)
    assert tile.key_rows.tolist() == [2, 3]


def test_scores_are_padded_to_whole_vectors() -> None:
    segments = Segments.of([[0]], [2], [1], page_tokens=4)
    (tile,) = segments.tiles(num_query_heads=1, num_kv_heads=1, sliding_window=None)
    assert tile.scores.numel() == 64


def test_a_table_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="1 pages of 4 tokens cannot hold 5 tokens"):
        Segments.of([[0]], [4], [1], page_tokens=4)
