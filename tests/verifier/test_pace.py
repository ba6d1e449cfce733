from dspark.verifier.pace import Pace


def due(pace: Pace, sessions: list[int]) -> list[int]:
    return [index for index, count in enumerate(sessions, 1) if pace.due(count)]


def test_it_is_time_now_and_then_while_the_load_stays() -> None:
    pace = Pace("auto", curve=None, block_size=7)
    assert due(pace, [8] * 200) == [4, 68, 132, 196]


def test_it_is_time_sooner_when_the_load_doubles_or_halves_but_not_at_once() -> None:
    pace = Pace("auto", curve=None, block_size=7)
    assert due(pace, [4] * 20 + [7] * 20 + [8] * 20 + [4] * 20) == [4, 41, 61]


def test_a_load_that_goes_to_and_fro_is_not_followed_in_every_step() -> None:
    pace = Pace("auto", curve=None, block_size=7)
    assert due(pace, [1, 2] * 10) == [4, 9, 14, 19]
