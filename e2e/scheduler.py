"""What a verify step costs beside the target: ``python e2e/scheduler.py [--sessions 64]``.

Drives the verifier's rounds with a target and a drafter that answer at once, so that all that is
left is ours: the budget's lookup, admission, the batch's layout, verdicts, commits, counts, and the
next question.  Prints medians over the steps.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from dspark.core.admission import SessionDraft, admit
from dspark.core.budget import Budget, ContextBucket
from dspark.core.draft import DraftBlock, DraftStatus, Round, RoundReply, Rows, survivals
from dspark.core.generation import Generation, GenerationStats
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName, SessionId, Term
from dspark.core.sampling import Sampling
from dspark.core.session import Phase
from dspark.drafting.deadline import Deadline
from dspark.drafting.desk import DraftDesk
from dspark.drafting.events import Connected, Replied
from dspark.verifier.budget_cell import BudgetCell
from dspark.verifier.rounds import Rounds
from dspark.verifier.session import VerifierSession
from dspark.verifier.target_port import Segment
from dspark.verifier.window import LoadWindow

GAMMA = 7
DRAFTER = ReplicaName("drafter")


class Echo:
    """A target that takes every other draft; its token is one more than the last."""

    vocab_size = 4096

    def step(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        return [
            tuple((token + (index < 4)) % 4096 for index, token in enumerate(part.tokens))
            for part in segments
        ]


class Mirror:
    """A port whose drafter drafts x + 1, x + 2, ... without delay."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []

    def send(self, drafter: ReplicaName, round_: Round) -> int:
        self.rounds.append(round_)
        return 0

    def replies(self) -> list[Replied]:
        answered = [
            Replied(
                drafter=DRAFTER,
                num_bytes=100,
                reply=RoundReply(
                    number=round_.number,
                    incarnation=Incarnation(1),
                    blocks=[
                        DraftBlock(
                            session=part.session,
                            base_length=part.base_length,
                            status=DraftStatus.OK,
                            tokens=tuple(
                                (part.anchor + 1 + k) % 4096 for k in range(part.max_tokens)
                            ),
                            confidences=tuple(0.9 - 0.02 * k for k in range(part.max_tokens)),
                        )
                        for part in round_.sessions
                    ],
                ),
            )
            for round_ in self.rounds
        ]
        self.rounds.clear()
        return answered


class Nobody:
    """A sink that drops what comes."""

    def commit(self, *committed: object) -> None:
        pass

    def finish(self, reason: object, stats: GenerationStats) -> None:
        raise AssertionError("the generation was to be longer than the trial")

    def fail(self, message: str, *, anywhere: bool = False) -> None:
        raise AssertionError(message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    asked = parser.parse_args()
    rows: Rows = np.zeros((100_000, 1), dtype=np.float16)
    port, window, budget = Mirror(), LoadWindow(0.0), BudgetCell(curve_version="c")
    budget.offer(
        Budget(
            pool=PoolName("verifier"), term=Term(1), epoch=Epoch(1), ttl_s=1e9, curve_version="c",
            buckets=(ContextBucket(max_context_tokens=2**31 - 1, draft_tokens=(-1, 200)),),
        ),
        time.monotonic(),
    )  # fmt: skip
    desk = DraftDesk(
        port,  # type: ignore[arg-type]
        rows=lambda session, start, stop: rows[start:stop],
        deadline=Deadline(floor_s=1.0, factor=3.0),
        seed_chunk_bytes=1 << 20,
        max_opening_bytes=1 << 20,
        max_sessions_per_drafter=1000,
        vocab_size=4096,
    )
    desk.handle(Connected(drafter=DRAFTER, incarnation=Incarnation(1)), 0.0)
    rounds = Rounds(
        Echo(),  # type: ignore[arg-type]
        desk,
        budget,
        window,
        curve=None,
        block_size=GAMMA,
        max_batch_tokens=4096,
        prefill_chunk_tokens=256,
        pool="verifier",
        model_name="echo",
        clock=time.monotonic,
        guard=None,
        skips=True,
        ended=lambda session, phase: None,
        prompt_done=lambda session, token: None,
    )
    sessions = []
    for number in range(1, asked.sessions + 1):
        session = VerifierSession(
            id=SessionId(number),
            generation=Generation(
                request_id="r", prompt=(1,) * 100, max_new_tokens=90_000, sampling=Sampling()
            ),
            sink=Nobody(),  # type: ignore[arg-type]
            tokens=[1] * 100,
            stats=GenerationStats(block_size=GAMMA),
            arrived_s=0.0,
        )
        session.table = type("Table", (), {"pages": (0, 1, 2)})()
        session.phase, session.computed = Phase.PREFILLING, 100
        rounds.begin(session, 1)
        sessions.append(session)

    totals, schedules, handled = [], [], []

    def trial(steps: int) -> None:
        for _ in range(steps):
            for reply in port.replies():
                built_s = time.perf_counter()
                desk.handle(reply, time.monotonic())
                handled.append(time.perf_counter() - built_s)
            began_s = time.perf_counter()
            rounds.step(sessions, [])
            totals.append(time.perf_counter() - began_s)
            schedules.append(window.take(0.0)[0].schedule_s)

    trial(20)
    del totals[:], schedules[:], handled[:]
    if asked.profile:
        import cProfile
        import pstats

        with cProfile.Profile() as profiled:
            trial(asked.steps)
        pstats.Stats(profiled).sort_stats("tottime").print_stats(25)
    else:
        trial(asked.steps)
    admitted_s = statistics.median(_admission(budget, asked.sessions) for _ in range(200))
    cold_s = statistics.median(_admission(budget, asked.sessions, 0.003) for _ in range(200))
    echo_s = statistics.median(_timed(Echo(), sessions) for _ in range(50))
    asked_s = [total - own - echo_s for total, own in zip(totals, schedules, strict=True)]
    for name, values in (
        ("a step, target included", totals), ("of it, deciding and bookkeeping", schedules),
        ("of it, asking for the next drafts", asked_s), ("a round's answer taken in", handled),
    ):  # fmt: skip
        print(f"{name:<38} {1e3 * statistics.median(values):.3f} ms")
    print(f"{'the budget looked up, drafts admitted':<38} {1e3 * admitted_s:.3f} ms")
    print(f"{'the same after a pause of 3 ms':<38} {1e3 * cold_s:.3f} ms")
    print(f"{'the target that answers at once':<38} {1e3 * echo_s:.3f} ms")


def _admission(budget: BudgetCell, count: int, pause_s: float = 0.0) -> float:
    drafts = [
        SessionDraft(session=SessionId(number), survivals=survivals([0.9 - 0.005 * k] * GAMMA))
        for k, number in enumerate(range(1, count + 1))
    ]
    time.sleep(pause_s)  # as while a target computes: caches are cold afterwards
    began_s = time.perf_counter()
    entry = budget.entry(sessions=count, mean_context_tokens=300.0, now_s=time.monotonic())
    admit(drafts, entry=entry, curve=None, context_tokens=300.0)
    return time.perf_counter() - began_s


def _timed(target: Echo, sessions: Sequence[VerifierSession]) -> float:
    segments = [
        Segment(tokens=(1,) * (1 + GAMMA), start=0, pages=(0,), choose=8, sampling=Sampling())
        for _ in sessions
    ]
    began_s = time.perf_counter()
    target.step(segments)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
