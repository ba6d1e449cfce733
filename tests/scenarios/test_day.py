"""A day of traffic against the planner: pools follow it, keep their promise, and do not flap.

The trace has the shape that such services record: a dead night, a steep morning, a dip at noon, a
long afternoon, and bursts.  Replicas take minutes to start.  Everything else is the planner's own:
what replicas report follows from the same curves that it plans with.
"""

import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from dspark.core.cohorts import cycle_seconds
from dspark.core.curve import step_seconds
from dspark.core.fleet import LoadReport, Member, ReplicaState, Role
from dspark.core.ids import PoolName, Term
from dspark.core.need import Scaling
from dspark.core.plan import Observation, Plan, plan
from dspark.core.policy import PlanSettings, Rules
from dspark.core.reservoir import pool_survivals
from dspark.core.wanted import Asked
from tests.fleet_examples import a_curve, a_replica

# Mean open sessions in each hour.
SHAPE = (6, 2, 0, 0, 0, 1, 8, 30, 70, 95, 100, 88, 70, 84, 98, 96, 90, 80, 62, 48, 40, 34, 24, 12)
MINUTES = 24 * 60
TICK_MIN = 4
START_MIN = {Role.VERIFIER: 4, Role.DRAFTER: 2, Role.PREFILL: 3}
PAGES, PAGES_A_SESSION, GAMMA = 400, 16, 3
PROMPT_TOKENS, PREFILL_RATE = 600, 1500.0
SLO = 24.0
SURVIVAL = (0.9, 0.75, 0.6)

VERIFY = a_curve(
    {1: 0.030, 4: 0.031, 8: 0.034, 16: 0.040, 32: 0.052, 64: 0.080},
    version="v", sessions=(1, 4, 8, 16),
)  # fmt: skip
DRAFT = a_curve(
    {3: 0.012, 12: 0.014, 24: 0.017, 48: 0.024, 96: 0.040}, version="d", sessions=(1, 4, 8, 16, 32)
)
SETTINGS = PlanSettings(min_samples=8, max_sessions=16, max_cohorts=1, dwell_s=1e9,
                        rules=Rules(activation_sessions=1))  # fmt: skip
SCALING = {
    Role.PREFILL: Scaling(min_replicas=1, max_replicas=6, up_after_s=60, down_after_s=600),
    Role.DRAFTER: Scaling(
        min_replicas=0, max_replicas=6, up_after_s=60, down_after_s=600, idle_s=1200, max_loss=0.1
    ),
    Role.VERIFIER: Scaling(
        min_replicas=1, max_replicas=16, up_after_s=60, down_after_s=600, tokens_per_s_per_user=SLO,
        reserve=0.2,
    ),
}  # fmt: skip


def at(hour: int) -> int:
    return hour * 60 // TICK_MIN


def trace() -> list[int]:
    """Open sessions by minute."""
    draw, found = random.Random(5), []
    bursts = {draw.randrange(7 * 60, 22 * 60): draw.randrange(15, 40) for _ in range(6)}
    for minute in range(MINUTES):
        hour, part = divmod(minute, 60)
        mean = SHAPE[hour] + (SHAPE[(hour + 1) % 24] - SHAPE[hour]) * part / 60
        burst = sum(size for begun, size in bursts.items() if 0 <= minute - begun < 12)
        found.append(max(round(draw.gauss(mean, 0.08 * mean)) + burst, 0))
    return found


@dataclass
class Day:
    """What the pools did, minute by minute."""

    scaling: dict[Role, Scaling]
    stuck: frozenset[Role] = frozenset()
    ready: Counter[Role] = field(default_factory=lambda: Counter(dict.fromkeys(SCALING, 1)))
    starting: dict[Role, list[int]] = field(default_factory=lambda: {role: [] for role in SCALING})
    plan: Plan = field(default_factory=Plan)
    wanted: dict[Role, list[int]] = field(default_factory=lambda: {role: [] for role in SCALING})
    minutes: Counter[Role] = field(default_factory=Counter)
    served: int = 0
    kept: int = 0

    def run(self, sessions: list[int]) -> "Day":
        for minute in range(0, MINUTES, TICK_MIN):
            self.step(minute, sessions[minute])
        return self

    def step(self, minute: int, sessions: int) -> None:
        for role, begun in self.starting.items():
            if role not in self.stuck:
                done = [at for at in begun if minute - at >= START_MIN[role]]
                self.ready[role] += len(done)
                self.starting[role] = [at for at in begun if at not in done]
        members, waiting, speed = self.report(sessions)
        self.served += sessions
        self.kept += sessions - waiting if speed >= SLO else 0
        curves = {(PoolName("verifier"), "v"): VERIFY, (PoolName("drafter"), "d"): DRAFT}
        self.plan = plan(
            Observation(
                term=Term(1), members=members,
                roles={PoolName(role.value): role for role in SCALING},
                asked=Asked(
                    scaling={PoolName(role.value): own for role, own in self.scaling.items()},
                    start={PoolName(role.value): 1 for role in SCALING},
                ),
            ),
            curves=curves, acceptance={PoolName("verifier"): pool_survivals([SURVIVAL] * 16)},
            previous=self.plan, settings=SETTINGS, now_s=60.0 * minute,
        )  # fmt: skip
        for role in SCALING:
            wanted = self.plan.wanted[PoolName(role.value)]
            self.wanted[role].append(wanted)
            self.minutes[role] += TICK_MIN * self.ready[role]
            have = self.ready[role] + len(self.starting[role])
            self.starting[role] += [minute] * max(wanted - have, 0)
            while wanted < self.ready[role] + len(self.starting[role]):
                if self.starting[role]:
                    self.starting[role].pop()
                else:
                    self.ready[role] -= 1

    def report(self, sessions: int) -> tuple[list[Member], int, float]:
        """Return everybody's report, who has to wait, and what each of the others gets."""
        verifiers, drafters = self.ready[Role.VERIFIER], self.ready[Role.DRAFTER]
        each = math.ceil(min(sessions, verifiers * PAGES / PAGES_A_SESSION) / verifiers)
        waiting = max(sessions - each * verifiers, 0)
        drafting = bool(drafters and sessions)
        batch = sessions / drafters if drafting else 0.0
        draft_s = queue_s = 0.0
        if drafting:
            draft_s = seconds(DRAFT, math.ceil(batch), math.ceil(batch) * GAMMA)
            queue_s = draft_s / 2 * (1 - 1 / max(verifiers, 1)) / drafters
        tokens = each * (1 + sum(SURVIVAL)) if drafting else each
        verify_s = seconds(VERIFY, max(each, 1), max(each, 1) * (1 + GAMMA * drafting))
        cycle_s = cycle_seconds(1, verify_s=verify_s, draft_s=draft_s + queue_s, round_trip_s=0.002)
        speed = tokens / cycle_s / each if each else math.inf
        members = [
            member(Role.VERIFIER, i, active_sessions=each, waiting_sessions=waiting // verifiers,
                   total_pages=PAGES, free_pages=max(PAGES - each * PAGES_A_SESSION, 0),
                   mean_context_tokens=64.0,
                   draft_round_s=draft_s + queue_s + 0.002 if drafting else 0.0)
            for i in range(verifiers)
        ]  # fmt: skip
        steps = 1000 if drafting else 0
        members += [
            member(Role.DRAFTER, i, steps=steps, batch_tokens=math.ceil(steps * batch * GAMMA),
                   step_s=steps * draft_s, queue_s=queue_s)
            for i in range(drafters)
        ]  # fmt: skip
        prompts = sessions * 0.08 * PROMPT_TOKENS  # a session lasts some 12 s
        prefills = self.ready[Role.PREFILL]
        done = min(prompts, prefills * PREFILL_RATE)
        members += [
            member(Role.PREFILL, i, prompt_tokens=round(60 * done / prefills),
                   step_s=60 * done / prefills / PREFILL_RATE,
                   queued_prompt_tokens=round((prompts - done) / prefills))
            for i in range(prefills)
        ]  # fmt: skip
        return members, waiting, speed

    def changes(self, role: Role) -> int:
        counts = self.wanted[role]
        return sum(a != b for a, b in pairwise(counts))


def seconds(curve: object, sessions: int, tokens: int) -> float:
    return step_seconds(curve, sessions=sessions, batch_tokens=tokens, context_tokens=64)  # type: ignore[arg-type]


def member(role: Role, number: int, **load: float) -> Member:
    name = f"{role.value}-{number}"
    curve = {Role.VERIFIER: VERIFY, Role.DRAFTER: DRAFT}.get(role)
    replica = a_replica(name, role, curve=curve)
    return Member(
        replica=replica,
        load=LoadReport(
            replica=replica.name, incarnation=replica.incarnation, state=ReplicaState.READY,
            window_s=60.0, **load,  # type: ignore[arg-type]
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def day() -> Day:
    return Day(scaling=SCALING).run(trace())


def test_sessions_get_what_they_were_promised(day: Day) -> None:
    assert day.kept / day.served > 0.97
    few = {**SCALING, Role.VERIFIER: replace(SCALING[Role.VERIFIER], max_replicas=3)}
    assert (held := Day(scaling=few).run(trace())).kept / held.served < 0.8


def test_it_takes_far_fewer_replica_hours_than_the_peak_would(day: Day) -> None:
    for role in SCALING:
        peak = max(day.wanted[role])
        assert peak > 1, role
        assert day.minutes[role] < 0.75 * peak * MINUTES, role


def test_drafters_are_gone_at_night_and_back_in_the_morning(day: Day) -> None:
    assert day.wanted[Role.DRAFTER][at(4)] == 0
    assert min(day.wanted[Role.DRAFTER][at(8) : at(20)]) >= 1
    assert min(day.wanted[Role.VERIFIER]) == 1


def test_nothing_flaps_and_it_would_without_patience(day: Day) -> None:
    hasty = {
        role: replace(own, up_after_s=0.0, down_after_s=0.0, reserve=0.0)
        for role, own in SCALING.items()
    }
    nervous = Day(scaling=hasty).run(trace())
    for role in (Role.VERIFIER, Role.PREFILL):
        assert day.changes(role) < 40, role
    assert nervous.changes(Role.VERIFIER) > 3 * day.changes(Role.VERIFIER)


def test_replicas_that_never_start_wedge_nothing(day: Day) -> None:
    stuck = Day(scaling=SCALING, stuck=frozenset({Role.DRAFTER})).run(trace())
    # Only one drafter ever is: more are wanted by day, and again fewer, and none at night.
    assert max(stuck.wanted[Role.DRAFTER]) > 1
    assert stuck.wanted[Role.DRAFTER][at(4)] == 0
    assert min(stuck.wanted[Role.DRAFTER][at(8) : at(20)]) >= 1
    assert max(stuck.wanted[Role.VERIFIER]) >= max(day.wanted[Role.VERIFIER])
    assert min(stuck.wanted[Role.VERIFIER][at(2) : at(5)]) == 1
