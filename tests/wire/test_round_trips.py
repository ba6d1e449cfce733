"""What crosses the wire arrives as it was sent; what cannot be is refused with its value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dspark.core.budget import DISABLED, Budget, ContextBucket
from dspark.core.curve import Curve, CurvePoint
from dspark.core.draft import (
    DraftBlock,
    DraftStatus,
    JudgedDraft,
    Round,
    RoundReply,
    SessionRound,
)
from dspark.core.fleet import (
    Compatibility,
    Fleet,
    LoadReport,
    Member,
    Pool,
    Replica,
    ReplicaState,
    Role,
)
from dspark.core.ids import Epoch, Incarnation, PoolName, ReplicaName, SessionId, Term
from dspark.core.logits import Grammar, GrammarKind, LogitRules, TokenLogprobs
from dspark.core.refinement import StepCell
from dspark.core.sampling import Sampling
from dspark.wire.budget import budget_from_wire, budget_to_wire
from dspark.wire.draft import (
    judged_from_wire,
    judged_to_wire,
    reply_from_wire,
    reply_to_wire,
    round_from_wire,
    round_to_wire,
    status_from_wire,
    status_to_wire,
)
from dspark.wire.fleet import (
    compatibility_from_wire,
    compatibility_to_wire,
    curve_from_wire,
    curve_to_wire,
    fleet_from_wire,
    fleet_to_wire,
    load_report_from_wire,
    load_report_to_wire,
    replica_from_wire,
    replica_to_wire,
)
from dspark.wire.logits import (
    logprobs_from_wire,
    logprobs_to_wire,
    rules_from_wire,
    rules_to_wire,
)
from dspark.wire.sampling import sampling_from_wire, sampling_to_wire
from dspark.wire.tensor import element_name, element_type, tensor_from_wire, tensor_to_wire
from dspark.wire.v1 import common_pb2, control_pb2, draft_pb2, verify_pb2

QUICK = settings(max_examples=40, deadline=None, derandomize=True, database=None)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
# Floats are single precision on the wire.
share = st.floats(0, 1, width=32)
amount = st.floats(0, 1e6, width=32)
text = st.text(max_size=8)
elements = st.sampled_from(["float32", "float16", "bfloat16"])


def tensors(dims: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(
        st.sampled_from([np.float32, np.float16, np.uint16]),
        arrays.array_shapes(min_dims=dims, max_dims=dims, min_side=0, max_side=4),
    )


samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 2, width=32),
    seed=st.integers(0, 2**63 - 1),
    choice=u32,
    top_k=u32,
    top_p=st.floats(2**-20, 1, width=32),
    min_p=share,
)
penalty = st.floats(-2, 2, width=32)
biases = st.dictionaries(u32, st.floats(-100, 100, width=32), max_size=4)
rules = st.builds(
    LogitRules,
    bias=biases.map(lambda bias: tuple(sorted(bias.items()))),
    repetition_penalty=st.floats(0.125, 8, width=32),
    frequency_penalty=penalty,
    presence_penalty=penalty,
    grammar=st.none() | st.builds(Grammar, kind=st.sampled_from(GrammarKind), text=text),
)
token_logprobs = st.builds(
    TokenLogprobs,
    logprob=st.floats(-1e6, 0, width=32),
    top=st.lists(st.tuples(u32, st.floats(-1e6, 0, width=32)), max_size=4).map(tuple),
)
compatibilities = st.builds(
    Compatibility,
    protocol_version=u32,
    model=text,
    target_digest=text,
    tokenizer_digest=text,
    vocab_size=u32,
    block_size=u32,
    target_layer_ids=st.lists(st.integers(-1, 99), max_size=5).map(tuple),
    projection_id=text,
    kv_dtype=elements,
    page_tokens=u32,
    rows_dtype=elements,
)
curves = st.builds(
    Curve,
    version=text,
    device=text,
    points=st.lists(
        st.builds(CurvePoint, context_tokens=u32, sessions=u32, batch_tokens=u32, step_s=amount),
        max_size=4,
    ).map(tuple),
)
replicas = st.builds(
    Replica,
    name=text.map(ReplicaName),
    pool=text.map(PoolName),
    role=st.sampled_from(Role),
    address=text,
    incarnation=u64.map(Incarnation),
    state=st.sampled_from(ReplicaState),
    compatibility=compatibilities,
    curve=st.none() | curves,
    metrics_address=text,
    pid=u32,
    node=text,
)
survivals = st.lists(st.lists(share, max_size=4).map(tuple), max_size=3).map(tuple)
reports = st.builds(
    LoadReport,
    replica=text.map(ReplicaName),
    incarnation=u64.map(Incarnation),
    state=st.sampled_from(ReplicaState),
    window_s=amount,
    active_sessions=u32,
    waiting_sessions=u32,
    free_pages=u32,
    total_pages=u32,
    busy_share=share,
    steps=u64,
    batch_tokens=u64,
    committed_tokens=u64,
    drafted_steps=u64,
    accepted_draft_tokens=u64,
    verified_draft_tokens=u64,
    step_s=amount,
    survivals=survivals,
    budget_epoch=st.none() | st.integers(1, 2**64 - 1).map(Epoch),
    budget_term=st.none() | st.integers(1, 2**64 - 1).map(Term),
    draft_outcomes=st.dictionaries(text, u64, max_size=3),
    wire_bytes=st.dictionaries(text, u64, max_size=3),
    prompt_tokens=u64,
    mean_context_tokens=amount,
    draft_round_s=amount,
    connected_drafters=u32,
    step_cells=st.lists(
        st.builds(StepCell, sessions=u32, batch_tokens=u32, steps=amount, ratio=amount), max_size=3
    ).map(tuple),
    turn_s=amount,
    schedule_s=amount,
    guard_checks=st.integers(0, 2**63),
    guard_violations=st.integers(0, 2**63),
    guard_tripped=st.booleans(),
    judged_by_position=st.lists(u32, max_size=7).map(tuple),
    accepted_by_position=st.lists(u32, max_size=7).map(tuple),
    confidence_by_position=st.lists(amount, max_size=7).map(tuple),
    session_steps=u64,
    queued_prompt_tokens=u64,
    queue_s=amount,
)
entries = st.lists(st.integers(DISABLED, 2**31 - 1), min_size=1, max_size=4).map(tuple)
budgets = st.builds(
    Budget,
    pool=text.map(PoolName),
    term=u64.map(Term),
    epoch=u64.map(Epoch),
    ttl_s=amount,
    curve_version=text,
    buckets=st.sets(u32, min_size=1, max_size=3).flatmap(
        lambda limits: st.tuples(
            *(
                st.builds(ContextBucket, max_context_tokens=st.just(limit), draft_tokens=entries)
                for limit in sorted(limits)
            )
        )
    ),
    reason=text,
    weights=st.lists(
        st.tuples(st.integers(-(2**31), 2**31 - 1), st.floats(0.01, 100)), max_size=3
    ).map(tuple),
)
pools = st.builds(
    Pool,
    name=text.map(PoolName),
    role=st.sampled_from(Role),
    wanted_replicas=u32,
    ready_replicas=u32,
    budget=st.none() | budgets,
    conditions=st.lists(text, max_size=2).map(tuple),
    wanted_because=text,
)
fleets = st.builds(
    Fleet,
    term=u64.map(Term),
    version=u64,
    members=st.lists(
        st.builds(Member, replica=replicas, load=st.none() | reports, seconds_since_report=amount),
        max_size=2,
    ).map(tuple),
    pools=st.lists(pools, max_size=2).map(tuple),
)


def parts(kind: type[np.generic], hidden: int) -> st.SearchStrategy[SessionRound]:
    """Sessions of one round: their rows are of one type and width."""
    return st.builds(
        SessionRound,
        session=u64.map(SessionId),
        base_length=u32,
        anchor=u32,
        rows_start=u32,
        rows=st.integers(0, 4).flatmap(lambda count: arrays.arrays(kind, (count, hidden))),
        max_tokens=u32,
        opens=st.none() | samplings,
    )


sessions_of_a_round = st.tuples(
    st.sampled_from([np.float32, np.float16, np.uint16]), st.integers(1, 4)
).flatmap(lambda kind: st.lists(parts(*kind), max_size=3))
blocks = st.integers(0, 4).flatmap(
    lambda count: st.builds(
        DraftBlock,
        session=u64.map(SessionId),
        base_length=u32,
        status=st.sampled_from(DraftStatus),
        tokens=st.tuples(*[u32] * count),
        confidences=st.tuples(*[share] * count),
    )
)
replies = st.builds(
    RoundReply,
    number=u64,
    incarnation=u64.map(Incarnation),
    blocks=st.lists(blocks, max_size=3).map(tuple),
    draft_s=amount,
    queue_s=amount,
    draining=st.booleans(),
)


@QUICK
@given(samplings)
def test_sampling(value: Sampling) -> None:
    assert sampling_from_wire(sampling_to_wire(value)) == value


@QUICK
@given(rules)
def test_logit_rules(value: LogitRules) -> None:
    message = rules_to_wire(value) or verify_pb2.LogitRules()
    assert rules_from_wire(message) == value


@QUICK
@given(token_logprobs)
def test_logprobs(value: TokenLogprobs) -> None:
    assert logprobs_from_wire(logprobs_to_wire(value)) == value


def test_logit_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="logit_bias: 2 tokens with 1 values"):
        rules_from_wire(verify_pb2.LogitRules(bias_token_ids=[1, 2], bias_values=[0.5]))
    with pytest.raises(ValueError, match=r"repetition_penalty 11\.0"):
        rules_from_wire(verify_pb2.LogitRules(repetition_penalty=11.0))


@QUICK
@given(compatibilities)
def test_compatibility(value: Compatibility) -> None:
    assert compatibility_from_wire(compatibility_to_wire(value)) == value


@QUICK
@given(curves)
def test_a_curve(value: Curve) -> None:
    assert curve_from_wire(curve_to_wire(value)) == value


@QUICK
@given(replicas)
def test_a_replica(value: Replica) -> None:
    assert replica_from_wire(replica_to_wire(value)) == value


@QUICK
@given(reports)
def test_a_load_report(value: LoadReport) -> None:
    assert load_report_from_wire(load_report_to_wire(value)) == value


@QUICK
@given(budgets)
def test_a_budget(value: Budget) -> None:
    assert budget_from_wire(budget_to_wire(value)) == value


@QUICK
@given(fleets)
def test_a_fleet(value: Fleet) -> None:
    assert fleet_from_wire(fleet_to_wire(value)) == value


@QUICK
@given(replies)
def test_a_reply(value: RoundReply) -> None:
    assert reply_from_wire(reply_to_wire(value)) == value


def test_a_judged_draft_and_one_whose_confidences_are_missing() -> None:
    draft = JudgedDraft(tokens=(5, 0), confidences=(0.5, 0.25), verified=1, accepted=0)
    assert judged_from_wire(judged_to_wire(draft)) == draft
    with pytest.raises(ValueError, match="2 draft tokens with 0 confidences"):
        judged_from_wire(verify_pb2.JudgedDraft(token_ids=[1, 2]))


@QUICK
@given(sessions_of_a_round, st.lists(u64, max_size=3), u64)
def test_a_round(sessions: list[SessionRound], released: list[int], number: int) -> None:
    sent = Round(
        number=number, sessions=sessions, released=tuple(SessionId(session) for session in released)
    )
    got = round_from_wire(round_to_wire(sent))
    assert (got.number, got.released) == (sent.number, sent.released)
    for ours, theirs in zip(sessions, got.sessions, strict=True):
        for name in ("session", "base_length", "anchor", "rows_start", "max_tokens", "opens"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.rows.dtype == theirs.rows.dtype
        assert ours.rows.shape == theirs.rows.shape
        assert ours.rows.tobytes() == theirs.rows.tobytes()


@QUICK
@given(st.integers(0, 4).flatmap(tensors))
def test_a_tensor_keeps_its_bits_shape_and_type(array: np.ndarray) -> None:
    got = tensor_from_wire(tensor_to_wire(array))
    assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_strided_or_big_endian_tensor_arrives_row_major_and_little_endian() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(tensor_from_wire(tensor_to_wire(array.T)), array.T)
    assert np.array_equal(tensor_from_wire(tensor_to_wire(array[:, ::2])), array[:, ::2])
    assert np.array_equal(tensor_from_wire(tensor_to_wire(array.astype(">f4"))), array)


@pytest.mark.parametrize("status", list(DraftStatus))
def test_every_status_has_a_number(status: DraftStatus) -> None:
    assert status_from_wire(status_to_wire(status)) is status


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_every_element_type_has_a_number(name: str) -> None:
    assert element_name(element_type(name)) == name


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (common_pb2.Tensor(), "unknown element type 0"),
        (common_pb2.Tensor(dtype=9), "unknown element type 9"),  # type: ignore[arg-type]
        (common_pb2.Tensor(dtype=1, shape=[2, 3], data=b"1234"), r"\(2, 3\).* 24 bytes, not 4"),
        (common_pb2.Tensor(dtype=1, shape=[1], data=b"12345"), "4 bytes, not 5"),
        (common_pb2.Tensor(dtype=1, data=b""), "4 bytes, not 0"),
        # A product that wraps around 64 bits to what is there.
        (common_pb2.Tensor(dtype=1, shape=[2**31, 2**31, 4], data=b""), "bytes, not 0"),
        (common_pb2.Tensor(dtype=2, shape=[2**32 - 1] * 3, data=b"12"), "bytes, not 2"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(tensor: common_pb2.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        tensor_from_wire(tensor)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.bool_])
def test_a_type_that_the_wire_does_not_know_is_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(ValueError, match="no wire element type for numpy dtype"):
        tensor_to_wire(np.zeros(2, dtype=dtype))
    with pytest.raises(ValueError, match="'int8' is none of float32, float16, bfloat16"):
        element_type("int8")


def test_unknown_enum_values_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown draft status 0"):
        status_from_wire(draft_pb2.DRAFT_STATUS_UNSPECIFIED)
    with pytest.raises(ValueError, match="unknown role 0"):
        replica_from_wire(control_pb2.Replica())
    with pytest.raises(ValueError, match="unknown replica state 0"):
        load_report_from_wire(control_pb2.LoadReport())


def test_a_block_with_more_tokens_than_confidences_is_refused() -> None:
    message = draft_pb2.RoundResponse(
        sessions=[1],
        base_lengths=[4],
        statuses=[draft_pb2.DRAFT_STATUS_OK],
        num_tokens=[2],
        tokens=[1, 2],
    )
    with pytest.raises(ValueError, match="2 tokens in all, but 2 tokens and 0 confidences"):
        reply_from_wire(message)


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (common_pb2.Sampling(temperature=2.5), "temperature 2.5"),
        (common_pb2.Sampling(temperature=float("nan")), "temperature nan"),
        (common_pb2.Sampling(seed=2**63), "seed"),
        (common_pb2.Sampling(top_p=-0.5), "top_p -0.5"),
        (common_pb2.Sampling(min_p=1.5), "min_p 1.5"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(message: common_pb2.Sampling, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sampling_from_wire(message)


def test_an_absent_top_p_is_no_limit() -> None:
    assert sampling_from_wire(common_pb2.Sampling()).top_p == 1.0


def test_a_budget_without_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one context bucket"):
        budget_from_wire(control_pb2.Budget())
