"""Plays a transcript: lines that start with ">" are done to a controller, its answers follow them.

The clock is the transcript's own.  ``python -m tests.scenarios.transcript FILE`` prints the
transcript as it plays now.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dspark.config.controller import ControllerSettings
from dspark.config.scaling import PoolScaling
from dspark.controller.loop import Controller
from dspark.controller.policies import Ask, Conflict, LostRace
from dspark.controller.registry import Refused, UnknownPool
from dspark.controller.store import MemoryStore
from dspark.core.budget import ALL, DISABLED, OFF
from dspark.core.changes import Change
from dspark.core.curve import Curve
from dspark.core.fleet import Replica, ReplicaState, Role
from dspark.core.ids import Epoch, PoolName
from dspark.core.policy import DEFAULT_POLICY, Mode, Policy
from tests.fleet_examples import COMPATIBILITY, a_curve, a_replica, a_report

SETTINGS = ControllerSettings(
    lease_s=3.0, report_interval_s=0.5, budget_ttl_s=5.0, dwell_s=2.0, min_samples=32,
    reservoir_size=64, max_cohorts=1,
)  # fmt: skip

ENTRY_WORDS = {ALL: "all", OFF: "off", DISABLED: "disabled"}


class Stage:
    """A controller with a fleet that does what it is told."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.settings = SETTINGS
        self.controller = Controller(SETTINGS, self.store)
        self.curves: dict[str, Curve] = {}
        self.replicas: dict[str, Replica] = {}
        self.now_s = 0.0
        self.commands: list[tuple[str, Callable[..., str]]] = [
            (r"curve (\w+): (.+), for (.+) sessions", self.draw),
            (r"(\w+) joins as (\w+)(?: with curve (\w+))?(?: of projection (\w+))?", self.join),
            (r"(\w+) restarts", self.restart),
            (r"(\w+) leaves", self.leave),
            (r"(\w+) drains", self.drain),
            (r"(\w+) reports (\d+) sessions(?:, a draft round of (\d+) ms)?"
             r"(?:, (\d+) rounds that survive by ([\d. ]+))?(?:, using epoch (\d+))?", self.report),
            (r"(\w+) has (\d+) sessions and (\d+) waiting, (\d+) of (\d+) pages free", self.fill),
            (r"(\w+)'s guard trips", self.trip),
            (r"(\w+)'s old process reports", self.report_stale),
            (r"(\w+) pools follow their load, (\d+) to (\d+) replicas", self.follow),
            (r"(\w+) leaves the number of (\w+) replicas to the load because (.+)", self.release),
            (r"(\w+) wants (\d+) replicas in (\w+) because (.+)", self.want),
            (r"(\w+) sets (\w+) to (.+?)(?: for ([\d.]+) s)?(, having read version (\d+))?"
             r" because (.+)", self.set_policy),
            (r"(\w+) clears (\w+) because (.+)", self.clear_policy),
            (r"(\w+) rolls (\w+) back(?: from change (\d+))? because (.+)", self.roll_back),
            (r"the history", self.history),
            (r"the controller restarts", self.restart_controller),
            (r"at ([\d.]+) s", self.tick),
        ]  # fmt: skip

    def do(self, line: str) -> str:
        for pattern, action in self.commands:
            match = re.fullmatch(pattern, line)
            if match is not None:
                return action(*match.groups())
        raise ValueError(f"nobody understands {line!r}")

    def draw(self, name: str, steps: str, sessions: str) -> str:
        costs = {
            int(tokens): float(cost) / 1000
            for tokens, cost in re.findall(r"(\d+) tokens ([\d.]+) ms", steps)
        }
        counts = [int(count) for count in sessions.split()]
        self.curves[name] = a_curve(costs, version=name, sessions=counts)
        return ""

    def join(self, name: str, role: str, curve: str | None, projection: str | None) -> str:
        known = replace(COMPATIBILITY, projection_id=projection or COMPATIBILITY.projection_id)
        self.replicas[name] = a_replica(
            name, Role(role), compatibility=known, curve=self.curves[curve] if curve else None
        )
        return self.register(name)

    def restart(self, name: str) -> str:
        replica = self.replicas[name]
        self.replicas[name] = replace(replica, incarnation=replica.incarnation + 1)
        return self.register(name)

    def drain(self, name: str) -> str:
        self.replicas[name] = replace(self.replicas[name], state=ReplicaState.DRAINING)
        return self.register(name)

    def register(self, name: str) -> str:
        try:
            self.controller.register(self.replicas[name], self.now_s)
        except Refused as refusal:
            return f"refused: {refusal}"
        return ""

    def leave(self, name: str) -> str:
        replica = self.replicas.pop(name)
        self.controller.unregister(replica.name, replica.incarnation)
        return ""

    def report(
        self,
        name: str,
        sessions: str,
        round_ms: str | None,
        rounds: str | None,
        by: str | None,
        epoch: str | None,
    ) -> str:
        replica = self.replicas[name]
        vector = tuple(float(value) for value in (by or "").split())
        report = a_report(
            name,
            incarnation=replica.incarnation,
            state=replica.state,
            active=int(sessions),
            survivals=[vector] * int(rounds or 0),
            draft_round_s=float(round_ms or 0) / 1000,
        )
        outcome = self.controller.report(
            replace(report, budget_epoch=Epoch(int(epoch)) if epoch else None), self.now_s
        )
        return "" if outcome.value == "accepted" else f"{outcome.value}"

    def fill(self, name: str, sessions: str, waiting: str, free: str, total: str) -> str:
        report = a_report(
            name, incarnation=self.replicas[name].incarnation, active=int(sessions),
            waiting=int(waiting),
        )  # fmt: skip
        full = replace(report, free_pages=int(free), total_pages=int(total))
        outcome = self.controller.report(full, self.now_s)
        return "" if outcome.value == "accepted" else outcome.value

    def follow(self, pool: str, fewest: str, most: str) -> str:
        scaling = PoolScaling(
            min_replicas=int(fewest), max_replicas=int(most), up_after_s=2, down_after_s=3, idle_s=6
        )
        known = {**self.settings.scaling, pool: scaling}
        self.settings = self.settings.model_copy(update={"scaling": known})
        self.controller = Controller(self.settings, self.store)
        return ""

    def release(self, author: str, pool: str, reason: str) -> str:
        before = self.controller.release_wanted(PoolName(pool), author=author, reason=reason)
        return f"before: {before}"

    def trip(self, name: str) -> str:
        report = a_report(name, incarnation=self.replicas[name].incarnation)
        tripped = replace(report, guard_checks=9, guard_violations=3, guard_tripped=True)
        return self.controller.report(tripped, self.now_s).value

    def report_stale(self, name: str) -> str:
        old = self.replicas[name].incarnation - 1
        return self.controller.report(a_report(name, incarnation=old), self.now_s).value

    def want(self, author: str, replicas: str, pool: str, reason: str) -> str:
        try:
            before = self.controller.set_wanted(
                PoolName(pool), int(replicas), author=author, reason=reason, unix_s=0.0
            )
        except UnknownPool as error:
            return f"{error}"
        return f"before: {before}"

    def ask(self, author: str, reason: str, expected: str | None = None) -> Ask:
        version = None if expected is None else int(expected)
        return Ask(author=author, reason=reason, unix_s=self.now_s, expected=version)

    def answer(self, decide: Callable[[], Change]) -> str:
        try:
            change = decide()
        except (UnknownPool, Conflict, LostRace) as error:
            return f"{type(error).__name__}: {error}"
        return f"change {change.number}: {change.policy}"

    def set_policy(
        self, author: str, pool: str, words: str, ttl_s: str | None, _: str | None,
        version: str | None, reason: str,
    ) -> str:  # fmt: skip
        try:
            policy = read_policy(words)
        except ValueError as error:
            return f"{error}"
        ask = self.ask(author, reason, version)
        return self.answer(
            lambda: self.controller.set_policy(
                PoolName(pool), policy, ask, ttl_s=None if ttl_s is None else float(ttl_s)
            )
        )

    def clear_policy(self, author: str, pool: str, reason: str) -> str:
        ask = self.ask(author, reason)
        return self.answer(lambda: self.controller.clear_policy(PoolName(pool), ask))

    def roll_back(self, author: str, pool: str, number: str | None, reason: str) -> str:
        ask, which = self.ask(author, reason), None if number is None else int(number)
        return self.answer(
            lambda: self.controller.roll_back_policy(PoolName(pool), ask, number=which)
        )

    def history(self) -> str:
        return "\n".join(
            f"{change.number} at {change.unix_s:g} s: {change.action.value} {change.pool} by "
            f"{change.author}: {change.policy} ({change.reason})"
            for change in self.controller.policies.history()
        )

    def restart_controller(self) -> str:
        self.controller = Controller(self.settings, self.store)
        return f"term {self.controller.term}"

    def tick(self, at_s: str) -> str:
        self.now_s = float(at_s)
        plan = self.controller.tick(self.now_s, unix_s=self.now_s)
        fleet = self.controller.fleet.value
        if fleet is None:
            return "the fleet is not published yet"
        lines = []
        for pool in fleet.pools:
            lines.append(f"{pool.name}: {pool.ready_replicas} ready of {pool.wanted_replicas}")
            if pool.name in self.settings.scaling:
                lines.append(f"  wanted: {pool.wanted_because}")
            lines += [f"  {condition}" for condition in pool.conditions]
            layers = self.controller.policies.layers(pool.name, self.now_s)
            if layers:
                until = layers[-1].until_unix_s
                end = "" if until is None else f" until {until:g} s"
                lines.append(f"  policy: {layers[-1].policy}{end}")
            issues = [(issued, "") for issued in plan.issued.values()]
            issues += [
                (issued, f", on {', '.join(sorted(plan.canaries))}")
                for issued in plan.tried.values()
            ]
            for issued, where in issues:
                budget = issued.budget
                if budget.pool != pool.name:
                    continue
                entries = [ENTRY_WORDS.get(k, str(k)) for k in budget.buckets[0].draft_tokens]
                curve = budget.curve_version or "no curve"
                sent = " (not sent)" if issued.policy.shadow else ""
                lines.append(
                    f"  epoch {budget.epoch} for {curve}{where}: {' '.join(entries)}{sent}"
                )
                lines.append(f"    {budget.reason}")
        return "\n".join(lines)


def read_policy(words: str) -> Policy:
    """Read "pinned 3", or "cap 4, floor 2, activation 3, shadow"."""
    fields: dict[str, float | bool | Mode] = {}
    names = {
        "pinned": "draft_tokens", "activation": "activation_sessions",
        "promise": "min_tokens_per_s", "canary": "canary_share",
    }  # fmt: skip
    for part in words.split(", "):
        word, _, number = part.partition(" ")
        if word == "shadow":
            fields["shadow"] = True
        elif word in {"auto", "off", "verify-all", "pinned"}:
            fields["mode"] = Mode(word)
        if number:
            fields[names.get(word, word)] = float(number) if "." in number else int(number)
    return replace(DEFAULT_POLICY, **fields)


def play(text: str) -> str:
    """Return the transcript with the answers that are given now."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith("> "):
            lines.append(line)
            answer = stage.do(line.removeprefix("> ").strip())
            lines += [f"  {part}" for part in answer.splitlines()]
        elif not line.startswith("  "):
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(play(Path(sys.argv[1]).read_text()), end="")
