"""vLLM's own statistics, as gauges of the replica and as metrics under vLLM's names."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dspark.engines.vllm.port import Gauges, OwnStep
from dspark.telemetry import metrics

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.metrics.loggers import StatLoggerBase
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats


class SchedulerGauges:
    """Takes what vLLM tells its stat loggers after each step; the event loop's thread only."""

    def __init__(
        self, gauges: Gauges, *, model_name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gauges = gauges
        self._clock = clock
        self._last_s = clock()
        self._running = metrics.VLLM_RUNNING.labels(model_name)
        self._waiting = metrics.VLLM_WAITING.labels(model_name)
        self._queries = metrics.VLLM_PREFIX_QUERIES.labels(model_name)
        self._hits = metrics.VLLM_PREFIX_HITS.labels(model_name)
        self._prompt_tokens = metrics.VLLM_PROMPT_TOKENS.labels(model_name)
        self._ttft = metrics.VLLM_TTFT.labels(model_name)
        self._itl = metrics.VLLM_ITL.labels(model_name)
        self._queue_time = metrics.VLLM_QUEUE_TIME.labels(model_name)

    def factory(self, config: "VllmConfig", engine_index: int = 0) -> "StatLoggerBase":
        """Return the logger in vLLM's form."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        take = self.take

        class Logger(StatLoggerBase):  # type: ignore[misc, unused-ignore]
            """Hands on what it is told."""

            def __init__(self) -> None:
                pass

            def record(
                self,
                scheduler_stats: "SchedulerStats | None",
                iteration_stats: "IterationStats | None",
                mm_cache_stats: object = None,
                engine_idx: int = 0,
            ) -> None:
                """Called after each step."""
                take(scheduler_stats, iteration_stats)

            def log_engine_initialized(self) -> None:
                """There is nothing to say."""

        return Logger()

    def take(self, scheduler: "SchedulerStats | None", iteration: "IterationStats | None") -> None:
        """Fold in one step's."""
        was_running, now_s = self._gauges.running > 0, self._clock()
        if scheduler is not None and iteration is not None and self._gauges.own_steps is not None:
            step_s = now_s - self._last_s if was_running else 0.0
            self._gauges.own_steps(_own_step(scheduler, iteration, step_s))
        self._last_s = now_s
        if scheduler is not None:
            self._gauges.running = scheduler.num_running_reqs
            self._gauges.waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
            self._gauges.kv_usage = scheduler.kv_cache_usage
        if not self._gauges.serving:  # what runs now measures steps
            return
        if scheduler is not None:
            self._running.set(self._gauges.running)
            self._waiting.set(self._gauges.waiting)
            self._queries.inc(scheduler.prefix_cache_stats.queries)
            self._hits.inc(scheduler.prefix_cache_stats.hits)
        if iteration is not None:
            self._prompt_tokens.inc(iteration.num_prompt_tokens)
            for seconds in iteration.time_to_first_tokens_iter:
                self._ttft.observe(seconds)
            for seconds in iteration.inter_token_latencies_iter:
                self._itl.observe(seconds)
            for finished in iteration.finished_requests:
                self._queue_time.observe(finished.queued_time)


def _own_step(scheduler: "SchedulerStats", iteration: "IterationStats", step_s: float) -> OwnStep:
    drafts = scheduler.spec_decoding_stats
    return OwnStep(
        prompt_tokens=iteration.num_prompt_tokens,
        committed_tokens=iteration.num_generation_tokens,
        session_steps=len(iteration.inter_token_latencies_iter),
        drafted_steps=0 if drafts is None else drafts.num_drafts,
        verified_tokens=0 if drafts is None else drafts.num_draft_tokens,
        accepted_at=() if drafts is None else tuple(drafts.num_accepted_tokens_per_pos),
        step_s=step_s,
    )
