from typing import Any

from dspark.core.curve import CurvePoint, make_curve
from dspark.core.generation import Generation
from dspark.core.ids import SessionId
from dspark.core.refinement import Refinement
from dspark.core.sampling import Sampling
from dspark.engines.vllm.ledger import Ledger
from dspark.engines.vllm.port import OwnStep
from dspark.verifier.window import LoadWindow
from tests.engines.vllm.fake_engine import GAMMA, round_note, step

ONE = SessionId(1)


def _ledger(window: LoadWindow | None = None, refinement: Refinement | None = None) -> Ledger:
    return Ledger(
        window or LoadWindow(0.0),
        pool="p",
        model_name="m",
        block_size=GAMMA,
        refinement=refinement,
    )


def _generation(**changes: Any) -> Generation:
    return Generation(
        request_id="r", prompt=(1, 2, 3), max_new_tokens=40, sampling=Sampling(), **changes
    )


def test_tokens_are_split_into_the_steps_that_made_them() -> None:
    ledger = _ledger()
    account = ledger.open(ONE, _generation(trace=True))
    ledger.take(step(round_note(1, 4, 2)))
    ledger.take(step(round_note(1, 7, 0), round_note(9, 4, 1)))  # of somebody else, too
    assert list(account.split(1)) == [(1, None)]
    (whole, draft), (one, plain) = account.split(4)  # two steps at once
    assert (whole, one) == (3, 1)
    assert draft is not None
    assert plain is not None
    assert (draft.verified, draft.accepted, plain.accepted) == (GAMMA, 2, 0)
    stats = account.stats
    assert (stats.steps, stats.drafted_steps, stats.accepted_draft_tokens) == (2, 2, 2)
    assert stats.accepted_histogram == [1, 0, 1, 0]
    assert (stats.row_bytes, stats.draft_bytes) == (20, 4)


def test_a_lost_note_leaves_its_tokens_without_a_draft() -> None:
    ledger = _ledger()
    account = ledger.open(ONE, _generation())
    ledger.take(step(round_note(1, 6, 1)))  # the one at 4 is lost
    assert [count for count, _ in account.split(1 + 2 + 2)] == [1, 2, 2]
    assert (account.stats.drafted_steps, account.stats.plain_steps) == (1, 1)
    assert [count for count, _ in account.split(3)] == [3]  # nothing is known of these
    assert account.position == 11


def test_a_generation_that_goes_on_from_elsewhere_begins_after_what_is_committed() -> None:
    ledger = _ledger()
    account = ledger.open(ONE, _generation(committed=(7, 8)))
    ledger.take(step(round_note(1, 6, 1)))
    assert [count for count, _ in account.split(3)] == [1, 2]
    assert account.stats.drafted_steps == 1


def test_a_closed_account_takes_no_more() -> None:
    ledger = _ledger()
    account = ledger.open(ONE, _generation())
    ledger.close(ONE)
    ledger.close(ONE)
    ledger.take(step(round_note(1, 4, 2)))
    assert not account.rounds


def test_the_window_holds_what_a_report_says() -> None:
    window = LoadWindow(0.0)
    ledger = _ledger(window)
    ledger.take(
        step(
            round_note(1, 10, 2),
            round_note(2, 20, 0, confidences=(0.5,), drafted=(7,), verified=0),
            round_note(3, 30, 0, confidences=(), drafted=(), verified=0),
            batch_tokens=16,
            prompt_tokens=10,
        )
    )
    observed = window.take_observed()
    sums, survivals, _ = window.take(1.0)
    assert (sums.steps, sums.batch_tokens, sums.prompt_tokens) == (1, 16, 10)
    assert (sums.committed_tokens, sums.session_steps, sums.context_tokens) == (5, 3, 60)
    assert (sums.drafted_steps, sums.proposed_tokens) == (2, 4)
    assert (sums.verified_draft_tokens, sums.accepted_draft_tokens) == (3, 2)
    assert sums.turn_s == 0.012
    assert survivals == ((0.5, 0.25, 0.125),)  # of whole blocks only
    assert observed == [("greedy", ((0.5, 0.25, 0.125), 3, 2))]
    assert ledger.last is not None


def test_steps_of_requests_on_trial_are_in_nobodys_books() -> None:
    window = LoadWindow(0.0)
    ledger = _ledger(window)
    ledger.take(step(round_note(0, 64, 1), epoch=3))
    assert window.take(1.0)[0].steps == 0
    assert ledger.last is not None
    assert ledger.last.epoch == 3


def test_steps_of_decoding_alone_refine_the_curve() -> None:
    points = [
        CurvePoint(context_tokens=64, sessions=1, batch_tokens=n, step_s=0.01 * n) for n in (1, 4)
    ]
    refinement = Refinement(make_curve("v", "cpu", points))
    ledger = _ledger(refinement=refinement)
    ledger.take(step(round_note(1, 10, 2)))
    ledger.take(step(round_note(1, 13, 2), prompt_tokens=4))
    ledger.take(step(round_note(1, 16, 2), turn_s=None))
    ledger.take(step(prompt_tokens=8))
    refinement.fold()
    (cell,) = refinement.cells
    assert cell.steps == 1


def test_an_engine_that_drafts_for_itself_has_books_too() -> None:
    window = LoadWindow(0.0)
    ledger = _ledger(window)
    ledger.take_own(
        OwnStep(
            prompt_tokens=4,
            committed_tokens=5,
            session_steps=2,
            drafted_steps=2,
            verified_tokens=6,
            accepted_at=(2, 1, 0),
            step_s=0.5,
        )
    )
    sums, _, _ = window.take(1.0)
    assert (sums.batch_tokens, sums.committed_tokens, sums.prompt_tokens) == (12, 5, 4)
    assert (sums.drafted_steps, sums.accepted_draft_tokens) == (2, 3)
    assert (sums.step_s, sums.turn_s) == (0.5, 0.5)
    account = ledger.open(ONE, _generation())
    assert [count for count, _ in account.split(4)] == [1, 3]
    account.settle([1, 2, 0, 0], 9)
    stats = account.stats
    assert (stats.drafted_steps, stats.accepted_draft_tokens) == (3, 2)
    assert stats.verified_draft_tokens == 9
