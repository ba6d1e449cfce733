from dataclasses import fields
from functools import partial

from dspark.core.fleet import ReplicaState
from dspark.core.generation import Generation
from dspark.core.ids import Incarnation, ReplicaName
from dspark.core.sampling import Sampling
from dspark.telemetry.metrics import REGISTRY
from dspark.verifier.budget_cell import FixedBudget
from dspark.verifier.calibration import CalibrationGauge
from dspark.verifier.window import LoadWindow, Sums
from tests.verifier.harness import GAMMA, System, running


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


def test_a_report_is_of_the_steps_since_the_last_one() -> None:
    window = LoadWindow(0.0)
    sums = Sums(steps=2, step_s=0.5, schedule_s=0.125, session_steps=4, context_tokens=100)
    window.step(sums=sums, survivals=[(0.5,)])
    report_of = partial(window.report, replica=ReplicaName("v"), incarnation=Incarnation(1))
    report = report_of([("greedy", ((0.5, 0.25), 2, 1))], state=ReplicaState.READY, now_s=2.0)
    assert (report.steps, report.schedule_s, report.window_s) == (2, 0.125, 2.0)
    assert (report.busy_share, report.mean_context_tokens) == (0.25, 25.0)
    assert report.survivals == ((0.5,),)
    assert (report.judged_by_position, report.accepted_by_position) == ((1, 1), (1, 0))
    assert report_of(state=ReplicaState.READY, now_s=2.0).busy_share == 0.0


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


def test_outcomes_of_rounds_are_known_as_far_as_they_were_judged_and_become_gauges() -> None:
    with running(System(budget=FixedBudget(4))) as system:
        system.add_drafter("d1")
        sampling = Sampling(temperature=0.7, seed=1)
        stats = [
            system.generate(
                Generation(
                    request_id="r", prompt=(seed,), max_new_tokens=600,
                    sampling=sampling if seed % 2 else Sampling(),
                )
            ).wait().stats
            for seed in range(4)
        ]  # fmt: skip
        rounds = system.engine.window.take_observed()
        assert system.engine.window.take_observed() == []
    assert {mode for mode, _ in rounds} == {"greedy", "coupled"}
    assert sum(n for _, (_, _, n) in rounds) == sum(s.accepted_draft_tokens for s in stats if s)
    for _, (survivals, known, accepted) in rounds:
        assert accepted <= known <= min(accepted + 1, 4, len(survivals))
    CalibrationGauge(pool="gauged", gamma=GAMMA).update(rounds * 10)
    labels = {"pool": "gauged", "mode": "greedy", "position": "0"}
    value = REGISTRY.get_sample_value("dspark_draft_calibration_error_ratio", labels)
    assert value is not None
    assert 0.0 < value < 0.5  # stated .9, accepted 4 of 5
    late = {**labels, "position": "6"}  # never verified under this budget
    assert REGISTRY.get_sample_value("dspark_draft_calibration_error_ratio", late) is None
