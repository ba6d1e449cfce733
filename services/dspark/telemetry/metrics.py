"""All metrics of all processes, in one table.

Names follow Prometheus (base units, ``_total`` for counters).  The ``vllm:`` ones repeat vLLM's
names and meanings so that existing dashboards and schedulers read us unchanged.  Every label
has few values by construction: pools, roles, causes, positions; never sessions or clients.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

REGISTRY = CollectorRegistry()

_STEP_SECONDS = (0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.064, 0.128, 0.5)
_STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LATENCY_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                    1.0, 2.5, 5.0, 7.5, 10.0)  # fmt: skip
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(name, text, labels, registry=REGISTRY, buckets=buckets)


BUILD_INFO = Info("dspark_build", "Version and role of this process", registry=REGISTRY)
CERTIFICATE_EXPIRY = _gauge(
    "dspark_certificate_expiry_timestamp_seconds",
    "When the certificate in use expires, by use: tls (between processes), https",
    "use")  # fmt: skip

# Budgets
BUDGET_TOKENS = _gauge(
    "dspark_verification_budget_tokens",
    "Draft tokens a step may verify at the present load (-1 all, -2 off, -3 disabled)",
    "pool")  # fmt: skip
BUDGET_EPOCH = _gauge("dspark_verification_budget_epoch", "Epoch of the budget in use", "pool")
BUDGET_PUBLISH = _counter("dspark_budget_publish_total", "Budgets broadcast", "outcome")
BUDGET_STALENESS = _gauge("dspark_budget_staleness_seconds", "Age of the budget in use", "pool")

# Verification
VERIFY_STEP_TOKENS = _histogram(
    "dspark_verify_step_tokens", "Tokens in one target forward", _STEP_TOKENS, "pool")  # fmt: skip
VERIFY_STEP_SECONDS = _histogram(
    "dspark_verify_step_duration_seconds", "Duration of one verify step", _STEP_SECONDS, "pool"
)
VERIFY_COHORTS = _gauge(
    "dspark_verify_cohorts",
    "Cohorts of sessions that step in turn: 1, or 2 so that one is drafted while the other is "
    "verified", "pool")  # fmt: skip
SPS_PROFILE_INFO = Info("dspark_sps_profile", "Curve in use", registry=REGISTRY)
SPS_PROFILE_ERROR = _gauge(
    "dspark_sps_profile_error_ratio",
    "How far live steps are from the profiled curve, over its step time, in the mean",
    "pool")  # fmt: skip

# Drafting
DRAFT_REQUESTS = _counter(
    "dspark_draft_requests_total",
    "Session rounds by outcome: hit, late, stale, lost, duplicate, foreign, not_seeded, full, "
    "skipped", "pool", "outcome")  # fmt: skip
DRAFT_RTT_SECONDS = _histogram(
    "dspark_draft_rtt_seconds", "Draft round trip as the verifier sees it", _STEP_SECONDS, "pool"
)
DRAFT_TOKENS = _counter(
    "dspark_draft_tokens_total", "Drafted tokens: verified, trimmed, wasted", "pool", "outcome"
)
DRAFT_CONTEXT_BYTES = _counter(
    "dspark_draft_context_bytes_total", "Bytes moved by kind: rows, drafts, kv", "pool", "kind"
)
DRAFT_BATCH_SESSIONS = _histogram(
    "dspark_draft_batch_sessions", "Sessions in one draft batch", _STEP_TOKENS, "pool"
)
DRAFT_STEP_SECONDS = _histogram(
    "dspark_draft_step_duration_seconds", "Duration of one draft batch", _STEP_SECONDS, "pool"
)

# The guard, and how far confidences can be believed
GUARD_CHECKS = _counter(
    "dspark_guard_checks_total",
    "Requests chosen to be decoded again, by outcome: passed, mismatch, drift, skipped, dropped",
    "pool", "outcome")  # fmt: skip
GUARD_TOKENS = _counter("dspark_guard_tokens_total", "Tokens decoded again and compared", "pool")
GUARD_EVIDENCE = _gauge(
    "dspark_guard_drift_evidence",
    "Power of ten of the evidence that sampling by rejection is biased", "pool")  # fmt: skip
GUARD_TRIPPED = _gauge("dspark_guard_tripped", "1 where the guard switched speculation off", "pool")

CALIBRATION_ERROR = _gauge(
    "dspark_draft_calibration_error_ratio",
    "Expected calibration error of the confidences of verified positions, counted from 0",
    "pool", "mode", "position")  # fmt: skip

# Pools
POOL_REPLICAS = _gauge(
    "dspark_pool_replicas", "Replicas by state: desired, ready, draining", "pool", "state"
)
STREAM_MIGRATIONS = _counter(
    "dspark_stream_migrations_total", "Streams continued on another replica", "reason"
)
DISAGG_DECISIONS = _counter(
    "dspark_disagg_decisions_total", "Where prompts were run: remote, local, retried, cached",
    "decision_type")  # fmt: skip
CONTROL_CHANGES = _counter(
    "dspark_control_changes_total", "Changes asked of the controller", "actor_kind", "outcome"
)
REPORTS = _counter("dspark_load_reports_total", "Load reports by outcome", "outcome")
HTTP_REQUESTS = _counter(
    "dspark_http_requests_total", "HTTP requests by route and status", "route", "status"
)

# The model-server contract of vLLM and the Gateway API inference extension
VLLM_RUNNING = _gauge("vllm:num_requests_running", "Sessions being decoded", "model_name")
VLLM_WAITING = _gauge("vllm:num_requests_waiting", "Sessions waiting", "model_name")
VLLM_KV_USAGE = _gauge("vllm:kv_cache_usage_perc", "Share of KV pages in use, 0..1", "model_name")
VLLM_CACHE_CONFIG = Info("vllm:cache_config", "KV cache geometry", registry=REGISTRY)
VLLM_PROMPT_TOKENS = _counter("vllm:prompt_tokens", "Prompt tokens processed", "model_name")
VLLM_GENERATION_TOKENS = _counter("vllm:generation_tokens", "Tokens generated", "model_name")
VLLM_PREFIX_QUERIES = _counter(
    "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", "model_name"
)
VLLM_PREFIX_HITS = _counter(
    "vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", "model_name"
)
VLLM_TTFT = _histogram(
    "vllm:time_to_first_token_seconds", "Time to first token", _LATENCY_SECONDS, "model_name"
)
VLLM_ITL = _histogram(
    "vllm:inter_token_latency_seconds", "Time between tokens", _TOKEN_SECONDS, "model_name"
)
VLLM_QUEUE_TIME = _histogram(
    "vllm:request_queue_time_seconds", "Time waiting for pages", _LATENCY_SECONDS, "model_name"
)
VLLM_SPEC_DRAFTS = _counter("vllm:spec_decode_num_drafts", "Steps that had a draft", "model_name")
VLLM_SPEC_DRAFT_TOKENS = _counter(
    "vllm:spec_decode_num_draft_tokens", "Draft tokens verified", "model_name"
)
VLLM_SPEC_ACCEPTED = _counter(
    "vllm:spec_decode_num_accepted_tokens", "Draft tokens accepted", "model_name"
)
VLLM_SPEC_ACCEPTED_PER_POS = _counter(
    "vllm:spec_decode_num_accepted_tokens_per_pos", "Draft tokens accepted by position",
    "model_name", "position")  # fmt: skip
