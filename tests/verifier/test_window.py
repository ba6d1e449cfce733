from dataclasses import fields

from dspark.verifier.window import LoadWindow, Sums


def test_steps_add_up_until_they_are_taken() -> None:
    window = LoadWindow(10.0)
    for _ in range(2):
        window.step(sums=Sums(steps=1, batch_tokens=5, step_s=0.25), survivals=[(0.5,)])
    sums, survivals, window_s = window.take(12.0)
    assert (sums.steps, sums.batch_tokens, sums.step_s) == (2, 10, 0.5)
    assert survivals == ((0.5,), (0.5,))
    assert window_s == 2.0


def test_taking_begins_a_new_window() -> None:
    window = LoadWindow(0.0)
    window.step(sums=Sums(steps=1), survivals=[(0.5,)])
    window.take(1.0)
    assert window.take(4.0) == (Sums(), (), 3.0)


def test_every_sum_is_folded_in() -> None:
    numbers = {
        field.name: index
        for index, field in enumerate(fields(Sums), 1)
        if field.name not in {"outcomes", "turn_s"}
    }
    window = LoadWindow(0.0)
    window.step(sums=Sums(**numbers), survivals=[])
    taken, _, _ = window.take(1.0)
    assert {name: getattr(taken, name) for name in numbers} == numbers


def test_only_the_newest_survivals_are_kept() -> None:
    window = LoadWindow(0.0)
    for number in range(100):
        window.step(sums=Sums(), survivals=[(1.0 / (1 + number),)])
    _, survivals, _ = window.take(1.0)
    assert len(survivals) == 64
    assert survivals[-1] == (0.01,)


def test_turns_are_folded_in_by_themselves() -> None:
    window = LoadWindow(0.0)
    window.turn(0.25)
    window.turn(0.5)
    assert window.take(1.0)[0].turn_s == 0.75
    assert window.take(2.0)[0].turn_s == 0.0
