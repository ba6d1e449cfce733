import io
import json

from rich.console import Console

from dspark.cli.counters import summarise
from dspark.cli.fleet_view import describe_pools, pool_tables
from dspark.core.budget import Budget, ContextBucket
from dspark.core.fleet import Fleet, LoadReport, Member, Pool, ReplicaState, Role
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName, Term
from tests.fleet_examples import a_replica

POOL = PoolName("verifier")


def fleet(**load: object) -> Fleet:
    report = LoadReport(
        replica=ReplicaName("v-1"),
        incarnation=Incarnation(1),
        state=ReplicaState.READY,
        window_s=0.5,
        **load,  # type: ignore[arg-type]
    )
    budget = Budget(
        pool=POOL,
        term=Term(2),
        epoch=Epoch(7),
        ttl_s=5.0,
        curve_version="c",
        buckets=(ContextBucket(max_context_tokens=512, draft_tokens=(-1, 9, -2)),),
        reason="trim to 9",
    )
    return Fleet(
        term=Term(2),
        version=1,
        members=(Member(replica=a_replica("v-1"), load=report),),
        pools=(
            Pool(
                name=POOL,
                role=Role.VERIFIER,
                wanted_replicas=2,
                wanted_because="8 sessions",
                ready_replicas=1,
                budget=budget,
                conditions=("ReplicasMissing: 1 of 2 are ready",),
            ),
        ),
    )


def test_rates_are_those_of_the_newest_reports() -> None:
    (pool,) = describe_pools(
        fleet(
            committed_tokens=50,
            drafted_steps=20,
            accepted_draft_tokens=30,
            wire_bytes={"rows": 1024, "drafts": 400},
        ),
        {"verifier": {"state": "RUNNING"}},
    )
    assert (pool["wanted_replicas"], pool["wanted_because"]) == (2, "8 sessions")
    assert pool["tokens_per_s"] == 100.0
    assert pool["accepted_length"] == 2.5
    assert pool["bytes_per_session_round"] == {"drafts": 20.0, "rows": 51.2}
    assert pool["serve"] == {"state": "RUNNING"}
    assert pool["budget"]["table"] == [
        {"max_context_tokens": 512, "draft_tokens": ["all", 9, "off"]}
    ]
    json.dumps(pool)


def test_nothing_decoded_has_no_rates() -> None:
    (pool,) = describe_pools(fleet(), {})
    assert pool["accepted_length"] is None
    assert pool["bytes_per_session_round"] is None


def test_the_tables_name_what_holds_a_pool_back() -> None:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as capture:
        console.print(pool_tables(describe_pools(fleet(), {})))
    said = capture.get()
    assert "1/2" in said
    assert "verifier: ReplicasMissing: 1 of 2 are ready" in said
    assert "trim to 9" in said


def test_the_guard_is_shown_where_it_has_checked_anything() -> None:
    guarded = describe_pools(fleet(guard_checks=12, guard_violations=3, guard_tripped=True), {})
    assert guarded[0]["replicas"][0]["guard"] == {"checks": 12, "violations": 3, "tripped": True}
    console = Console(width=120, file=io.StringIO())
    for pools, shown in ((guarded, True), (describe_pools(fleet(), {}), False)):
        with console.capture() as capture:
            console.print(pool_tables(pools))
        assert ("verifier: guard: 12 checks, 3 violations" in capture.get()) == shown


def test_counts_since_the_start_are_summed_over_replicas() -> None:
    text = """\
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{model_name="m"} 10.0
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{model_name="m"} 25.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="m"} 40.0
# TYPE dspark_draft_context_bytes_total counter
dspark_draft_context_bytes_total{pool="verifier",kind="rows"} 5120.0
"""
    assert summarise([text, text]) == {
        "tokens": 80,
        "session_rounds": 20,
        "accepted_length": 3.5,
        "bytes_per_session_round": {"rows": 512.0},
    }
    assert summarise([""])["accepted_length"] is None
