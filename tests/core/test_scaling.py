"""From needs to wanted replicas: what lasts counts, and nothing flaps."""

from dspark.core.need import Need, Scaling
from dspark.core.scaling import Scaled, scale

SCALING = Scaling(
    min_replicas=0, max_replicas=8, up_after_s=2.0, down_after_s=60.0, idle_s=300.0
)  # fmt: skip


def needs(fewest: int, safe: int | None = None) -> Need:
    return Need(fewest=fewest, safe=fewest if safe is None else safe, why="a test")


def follow(
    counts: list[tuple[float, Need | None]], *, start: int = 1, scaling: Scaling = SCALING
) -> list[int]:
    """Return the wanted replicas after each (second, need)."""
    scaled, found = Scaled(wanted=start), []
    for now_s, need in counts:
        scaled = scale(scaled, need, scaling, now_s=now_s)
        found.append(scaled.wanted)
    return found


def test_more_are_wanted_once_the_load_asked_for_long_enough() -> None:
    assert follow([(0, needs(3)), (1, needs(3)), (2, needs(3))]) == [1, 1, 3]


def test_a_short_peak_is_not_followed() -> None:
    peaks = [(0, needs(8)), (1, needs(8)), (1.5, needs(1)), (2, needs(8)), (3, needs(8))]
    assert set(follow(peaks)) == {1}


def test_as_many_as_were_asked_for_all_the_while() -> None:
    assert follow([(0, needs(8)), (1, needs(2)), (2, needs(5))])[-1] == 2


def test_fewer_are_wanted_only_when_the_load_did_with_them_for_long() -> None:
    low = [(second, needs(1)) for second in (0, 59, 60)]
    assert follow(low, start=4) == [4, 4, 1]
    assert follow([(0, needs(1)), (30, needs(3)), (60, needs(1))], start=4)[-1] == 3


def test_a_replica_is_kept_where_little_more_load_would_need_it() -> None:
    assert follow([(0, needs(1, safe=2)), (600, needs(1, safe=2))], start=2) == [2, 2]


def test_the_last_one_waits_for_idleness_and_comes_back_at_once_after_it() -> None:
    idle = [(second, needs(0)) for second in (0, 60, 299, 300)]
    assert follow(idle, start=3) == [3, 1, 1, 0]
    assert follow([(0, needs(1)), (2, needs(1))], start=0) == [0, 1]


def test_limits_hold_whatever_the_load_asks() -> None:
    pool = Scaling(min_replicas=1, max_replicas=2, up_after_s=0.0, down_after_s=0.0, idle_s=0.0)
    assert follow([(0, needs(9)), (1, needs(0))], scaling=pool) == [2, 1]


def test_nothing_changes_while_nothing_is_known() -> None:
    assert follow([(0, None), (999, None)], start=3) == [3, 3]
