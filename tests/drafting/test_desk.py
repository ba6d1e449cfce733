import numpy as np
import pytest

from dspark.core.draft import DraftStatus
from dspark.core.ids import SessionId
from dspark.core.sampling import Sampling
from tests.drafting.world import VOCAB, Desk, true_rows

FULL, NOT_SEEDED = DraftStatus.FULL, DraftStatus.NOT_SEEDED


def test_a_session_is_seeded_with_all_its_rows_in_chunks() -> None:
    desk = Desk("d1", seed_chunk_bytes=16)  # two rows of eight bytes
    desk.open(1, num_rows=5)
    (seeding,) = desk.port.seedings
    assert [(start, len(rows)) for start, rows in seeding.chunks] == [(0, 2), (2, 2), (4, 1)]
    sent = np.concatenate([rows for _, rows in seeding.chunks])
    assert np.array_equal(sent, true_rows(SessionId(1), 0, 5))


def test_sessions_go_to_the_drafter_that_has_the_fewest() -> None:
    desk = Desk("d1", "d2")
    for session in range(1, 5):
        desk.open(session)
    assert [seeding.drafter for seeding in desk.port.seedings] == ["d1", "d2", "d1", "d2"]


def test_a_drafter_takes_no_more_sessions_than_its_bound() -> None:
    desk = Desk("d1", max_sessions=2)
    for session in range(1, 4):
        desk.open(session)
    assert len(desk.port.seedings) == 2
    desk.desk.close(SessionId(1))
    desk.ask((3, 4))
    assert desk.port.seedings[-1].session == 3


def test_nothing_is_asked_before_the_seeding_ended() -> None:
    desk = Desk("d1")
    desk.open(1)
    assert desk.ask((1, 4)) == {}
    desk.seeded()
    assert desk.ask((1, 4)) == {SessionId(1): 0}
    assert desk.asked == [("d1", 1, 4)]


def test_a_short_prompt_rides_on_its_first_question() -> None:
    desk = Desk("d1", max_opening_bytes=40)  # five rows of eight bytes
    desk.open(1, num_rows=5)
    assert desk.ask((1, 5)) == {SessionId(1): 40}
    desk.reply((1, 5))
    assert desk.take(1, 5) == (3,)
    desk.ask((1, 7))
    assert not desk.port.seedings
    first, second = (round_.sessions[0] for _, round_ in desk.port.rounds)
    assert (first.opens, first.rows_start, len(first.rows)) == (Sampling(), 0, 5)
    assert (second.opens, second.rows_start, len(second.rows)) == (None, 5, 2)


def test_a_long_prompt_is_seeded_at_once_and_one_that_grew_long_when_it_is_asked() -> None:
    desk = Desk("d1", max_opening_bytes=40)
    desk.open(1, num_rows=6)
    assert [seeding.session for seeding in desk.port.seedings] == [1]
    desk.open(2, num_rows=5)
    assert desk.ask((2, 6)) == {}
    assert [seeding.session for seeding in desk.port.seedings] == [1, 2]


@pytest.mark.parametrize("late", [False, True])
def test_an_opening_without_room_moves_the_session(late: bool) -> None:
    desk = Desk("d1", "d2", max_opening_bytes=40)
    desk.open(1)
    desk.ask((1, 4))
    if late:
        assert desk.take(1, 4) is None
    desk.reply((1, 4), status=FULL)
    desk.ask((1, 5))
    assert desk.asked == [("d1", 1, 4), ("d2", 1, 5)]
    assert desk.port.rounds[1][1].sessions[0].opens == Sampling()
    assert ("d1", 1) in desk.released


def test_an_opening_that_was_not_understood_is_followed_by_a_seeding() -> None:
    desk = Desk("d1", max_opening_bytes=40)
    desk.open(1)
    desk.ask((1, 4))
    desk.reply((1, 4), status=NOT_SEEDED)
    desk.seeded()
    desk.ask((1, 5))
    assert desk.asked == [("d1", 1, 4), ("d1", 1, 5)]
    assert desk.port.rounds[1][1].sessions[0].opens is None


def test_a_session_that_was_never_asked_about_needs_no_release() -> None:
    desk = Desk("d1", max_opening_bytes=40)
    desk.open(1)
    desk.desk.close(SessionId(1))
    desk.desk.flush(desk.now_s)
    assert not desk.released


def test_an_answer_is_taken_once_and_only_for_its_base_length() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4))
    assert desk.take(1, 4) == (3,)
    assert desk.take(1, 4) is None
    desk.ask((1, 6))
    desk.reply((1, 6))
    assert desk.take(1, 5) is None


def test_rows_sent_are_those_since_the_last_round_without_gap_or_repeat() -> None:
    desk = Desk("d1")
    desk.ready(1, num_rows=4)
    sent = {}
    for base in (4, 7, 8, 13):
        sent |= {base: desk.ask((1, base))[SessionId(1)] // 8}
        desk.reply((1, base))
        desk.take(1, base)
    assert sent == {4: 0, 7: 3, 8: 1, 13: 5}
    parts = [part for _, round_ in desk.port.rounds for part in round_.sessions]
    assert [part.rows_start for part in parts] == [4, 4, 7, 8]
    rows = np.concatenate([part.rows for part in parts])
    assert np.array_equal(rows, true_rows(SessionId(1), 4, 13))


def test_rows_committed_during_the_seeding_ride_on_the_first_round() -> None:
    desk = Desk("d1")
    desk.open(1, num_rows=4)
    desk.ask((1, 5))
    desk.ask((1, 6))
    desk.seeded()
    desk.ask((1, 7))
    (part,) = desk.port.rounds[-1][1].sessions
    assert (part.rows_start, len(part.rows)) == (4, 3)


def test_at_most_one_question_is_outstanding_for_a_session() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    assert desk.take(1, 4) is None
    assert desk.ask((1, 5)) == {}
    desk.reply((1, 4))
    desk.ask((1, 6))
    assert desk.asked == [("d1", 1, 4), ("d1", 1, 6)]


def test_a_late_answer_is_dropped_and_counted_and_the_next_question_may_go() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    assert desk.take(1, 4) is None
    desk.reply((1, 4))
    assert desk.take(1, 4) is None
    assert desk.desk.outcomes == {"late": 1}
    assert desk.ask((1, 5)) == {SessionId(1): 8}


def test_a_question_is_waited_for_until_its_deadline_and_a_late_one_no_more() -> None:
    desk = Desk("d1")
    desk.ready(1)
    assert desk.desk.pending_until([SessionId(1)]) is None
    desk.now_s = 5.0
    desk.ask((1, 4))
    assert desk.desk.pending_until([SessionId(1)]) == 6.0
    assert desk.desk.pending_until([SessionId(2)]) is None
    desk.take(1, 4)
    assert desk.desk.pending_until([SessionId(1)]) is None


def test_the_deadline_follows_the_round_trip() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.now_s = 2.0
    desk.reply((1, 4))
    assert desk.desk.round_trip_s == 2.0
    desk.ask((1, 5))
    assert desk.desk.pending_until([SessionId(1)]) == 2.0 + 6.0


def test_a_gap_at_the_drafter_is_mended_by_seeding_again() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 6))
    desk.reply((1, 6), status=NOT_SEEDED)
    assert desk.desk.outcomes == {"not_seeded": 1}
    assert [seeding.num_rows for seeding in desk.port.seedings] == [4, 6]
    assert desk.ask((1, 8)) == {}
    desk.seeded()
    assert desk.ask((1, 8)) == {SessionId(1): 16}


def test_a_late_answer_that_tells_of_a_gap_is_heard_too() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.take(1, 4)
    desk.reply((1, 4), status=NOT_SEEDED)
    assert len(desk.port.seedings) == 2


def test_an_answer_that_came_twice_is_used_once() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4), token=3)
    desk.reply((1, 4), token=4)
    assert desk.take(1, 4) == (3,)
    assert desk.desk.outcomes == {"hit": 1, "duplicate": 1}


def test_a_stale_or_foreign_answer_leaves_the_question_open() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4), number=0, token=4)
    desk.reply((1, 3), token=5)
    desk.reply((1, 4), incarnation=2, token=6)
    desk.reply((1, 4), drafter="d2", token=7)
    assert desk.desk.outcomes == {"stale": 2, "foreign": 1, "duplicate": 1}
    desk.reply((1, 4), token=8)
    assert desk.take(1, 4) == (8,)


def test_a_malformed_block_costs_one_round() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4), token=VOCAB)
    assert desk.take(1, 4) is None
    assert desk.desk.outcomes == {"malformed": 1}
    assert desk.ask((1, 5)) == {SessionId(1): 8}


def test_a_full_round_keeps_the_session_where_it_is() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4), status=FULL)
    assert desk.take(1, 4) is None
    assert desk.ask((1, 5)) == {SessionId(1): 8}


@pytest.mark.parametrize("answer", [{"status": FULL}, {"status": NOT_SEEDED}, {"cached_rows": 3}])
def test_a_drafter_where_seeding_failed_is_left_alone_for_a_while(
    answer: dict[str, DraftStatus | int],
) -> None:
    desk = Desk("d1")
    desk.open(1)
    desk.seeded(**answer)  # type: ignore[arg-type]
    desk.open(2)
    assert len(desk.port.seedings) == 1
    for _ in range(200):
        desk.ask((1, 4))
    assert [seeding.session for seeding in desk.port.seedings] == [1, 1]


def test_a_drafter_without_room_is_passed_over_for_another() -> None:
    desk = Desk("d1", "d2")
    desk.open(1)
    desk.seeded(status=FULL)
    desk.ask((1, 4))
    assert [seeding.drafter for seeding in desk.port.seedings] == ["d1", "d2"]
    assert ("d1", 1) in desk.released


def test_an_older_seeding_s_end_is_ignored() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4), status=NOT_SEEDED)
    desk.seeded(desk.port.seedings[0])
    assert desk.ask((1, 5)) == {}
    desk.seeded()
    assert desk.ask((1, 5)) != {}


def test_rows_that_would_hold_up_the_round_are_seeded_instead() -> None:
    desk = Desk("d1", seed_chunk_bytes=16)
    desk.ready(1, num_rows=2)
    desk.ask((1, 10))  # eight rows: four chunks
    assert desk.asked == [("d1", 1, 10)]
    desk.reply((1, 10))
    assert desk.ask((1, 19)) == {}
    assert desk.port.seedings[-1].num_rows == 19


def test_a_lost_drafter_s_sessions_move_with_all_their_rows() -> None:
    desk = Desk("d1", "d2")
    desk.ready(1)
    desk.ask((1, 6))
    desk.lose("d1")
    assert desk.desk.outcomes == {"lost": 1}
    assert (desk.port.seedings[-1].drafter, desk.port.seedings[-1].num_rows) == ("d2", 6)
    assert desk.desk.num_drafters == 1
    desk.seeded()
    desk.ask((1, 7))
    assert desk.asked[-1] == ("d2", 1, 7)


def test_the_loss_of_an_earlier_process_is_no_loss() -> None:
    desk = Desk()
    desk.connect("d1", incarnation=2)
    desk.ready(1)
    desk.lose("d1", incarnation=1)
    assert desk.desk.num_drafters == 1
    assert desk.ask((1, 4)) != {}


def test_sessions_without_a_drafter_are_placed_when_one_connects() -> None:
    desk = Desk()
    desk.open(1)
    assert desk.ask((1, 5)) == {}
    desk.connect("d1")
    assert desk.port.seedings[-1].num_rows == 5


def test_a_draining_drafter_s_sessions_move_where_others_have_room() -> None:
    desk = Desk("d1", "d2", max_sessions=2)
    for session in (1, 2, 3):
        desk.ready(session)
    desk.ask((1, 4), (3, 4))
    desk.reply((1, 4), (3, 4), draining=True)
    assert (desk.port.seedings[-1].drafter, desk.port.seedings[-1].session) == ("d2", 1)
    desk.seeded()
    assert desk.take(3, 4) == (3,)  # no room elsewhere: it is drafted here to the end
    desk.ask((1, 5), (3, 5))
    assert desk.asked[-2:] == [("d2", 1, 5), ("d1", 3, 5)]


def test_a_draining_drafter_takes_no_new_sessions() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.reply((1, 4), draining=True)
    desk.open(2)
    assert len(desk.port.seedings) == 1
    desk.lose("d1")
    desk.connect("d1", incarnation=2)
    assert [seeding.session for seeding in desk.port.seedings[1:]] == [1, 2]


def test_an_ended_session_is_released_with_the_next_round() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ready(2)
    desk.desk.close(SessionId(1))
    assert desk.released == []
    desk.ask((2, 4))
    assert len(desk.port.rounds) == 1
    assert desk.released == [("d1", 1)]


def test_a_release_does_not_wait_for_a_round_that_never_comes() -> None:
    desk = Desk("d1", "d2")
    desk.ready(1)
    desk.ready(2)
    desk.desk.close(SessionId(1))
    desk.ask((2, 4))  # a round for d2 only
    assert desk.released == [("d1", 1)]


def test_flushing_releases_what_ended_and_says_it_once() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.desk.close(SessionId(1))
    desk.desk.flush(0.0)
    desk.desk.flush(0.0)
    assert desk.released == [("d1", 1)]
    assert len(desk.port.rounds) == 1


def test_answers_for_ended_sessions_are_ignored() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ask((1, 4))
    desk.desk.close(SessionId(1))
    desk.reply((1, 4))
    desk.seeded()
    assert desk.take(1, 4) is None
    assert desk.desk.draft_bytes_of(SessionId(1)) == 0


def test_an_answer_that_never_comes_moves_the_session_in_the_end() -> None:
    desk = Desk("d1", "d2")
    desk.ready(1)
    desk.ask((1, 4))
    desk.now_s = 9.0
    desk.ask((1, 5))
    assert len(desk.port.seedings) == 1
    desk.now_s = 11.0
    desk.ask((1, 6))
    desk.ask((1, 7))
    assert desk.desk.outcomes == {"lost": 1}
    assert (desk.port.seedings[-1].drafter, desk.port.seedings[-1].num_rows) == ("d2", 7)


def test_bytes_are_counted_by_kind_and_session() -> None:
    desk = Desk("d1")
    desk.ready(1)
    desk.ready(2)
    desk.ask((1, 6), (2, 4))
    desk.reply((1, 6), (2, 4))
    assert desk.desk.row_bytes == 4 * 8 + 4 * 8 + 2 * 8
    assert desk.desk.draft_bytes == 10
    assert desk.desk.draft_bytes_of(SessionId(1)) == 5


def test_drafts_are_under_way_once_a_session_was_drafted_before() -> None:
    desk = Desk("d1", max_opening_bytes=40)
    desk.open(1)
    desk.ask((1, 4))
    assert not desk.desk.under_way  # only an opening
    desk.reply((1, 4))
    desk.ask((1, 6))
    assert desk.desk.under_way
    desk.reply((1, 6))
    assert not desk.desk.under_way
