from pydantic import TypeAdapter

from dspark.core.budget import Budget, ContextBucket
from dspark.core.curve import Curve, CurvePoint, make_curve
from dspark.core.ids import Epoch, PoolName, Term
from dspark.engines.vllm.worker import TAKE_CURVE, TRY_DRAFTS, DraftWorker
from tests.engines.vllm.fake_runner import GAMMA, Engine

CURVE = make_curve(
    "v1",
    "cpu",
    [CurvePoint(context_tokens=64, sessions=1, batch_tokens=n, step_s=0.01 * n) for n in (1, 8)],
)


def _worker(engine: Engine) -> DraftWorker:
    worker = DraftWorker()
    worker.model_runner = engine.runner
    return worker


def test_budgets_count_from_the_curve_on_that_they_are_computed_from() -> None:
    engine = Engine()
    engine.drafter.connect()
    budget = Budget(
        pool=PoolName("verifier"), term=Term(1), epoch=Epoch(1), ttl_s=60.0, curve_version="v1",
        buckets=(ContextBucket(max_context_tokens=1000, draft_tokens=(2,)),),
    )  # fmt: skip
    engine.budget(budget)
    engine.add("a", (5, 6, 7))
    engine.step()
    engine.step()
    assert len(engine.pending["a"]) == GAMMA  # it is for a curve that nobody knows here
    getattr(_worker(engine), TAKE_CURVE)(TypeAdapter(Curve).dump_json(CURVE).decode())
    engine.budget(budget)
    engine.step()
    assert len(engine.pending["a"]) == 2
    getattr(_worker(engine), TAKE_CURVE)(None)
    engine.step()
    assert len(engine.pending["a"]) == GAMMA


def test_requests_on_trial_have_drafts_as_long_as_asked_for_and_ask_no_drafter() -> None:
    engine = Engine()
    engine.drafter.connect()
    engine.add("t", (5, 6, 7), extra_args={"dspark": {"trial": True}})
    engine.add("a", (1, 2))
    getattr(_worker(engine), TRY_DRAFTS)(3)
    engine.step()
    engine.step()
    assert engine.pending["t"] == [0, 0, 0]
    assert len(engine.pending["a"]) == GAMMA
    assert len(engine.drafter.cached) == 1
    getattr(_worker(engine), TRY_DRAFTS)(0)
    engine.step()
    assert "t" not in engine.pending
    assert engine.drafts.failure is None
