"""Drafts for the requests of one vLLM model runner: what it computes in, draft tokens out.

Only the first tensor-parallel rank talks to drafters; the others take over what it decided.  A
failure in here ends drafting, never the engine: from then on vLLM decodes plainly.
"""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dspark.config.vllm import VllmSettings
from dspark.core.budget import Budget
from dspark.core.curve import Curve
from dspark.core.draft import Proposal, Rows
from dspark.drafting.events import DraftEvent
from dspark.drafting.port import DraftPort
from dspark.engines.vllm.hooks import probe
from dspark.engines.vllm.laws import dense_laws
from dspark.engines.vllm.requests import drawn_as, ends_at, outcome_of
from dspark.engines.vllm.rows import RowStore, Slots, slots_of
from dspark.engines.vllm.steps import Decoding, DraftSteps
from dspark.engines.vllm.teller import StepTeller
from dspark.engines.vllm.wishes import WishBook, Wishes
from dspark.model.kv_pool import as_numpy
from dspark.model.pair import PairIdentity
from dspark.model.projection import Projection, Projector
from dspark.verifier.budget_cell import BudgetCell

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

log = logging.getLogger(__name__)

_FULL_ATTENTION = "FullAttentionSpec"

T = TypeVar("T")


class TensorGroup(Protocol):
    """The ranks that one target is split over."""

    @property
    def world_size(self) -> int:
        """How many."""

    @property
    def rank_in_group(self) -> int:
        """Which one this is."""

    def broadcast_object(self, obj: object, src: int = 0) -> object:
        """Return rank 0's object on every rank."""


class Client(Protocol):
    """A connection to drafters."""

    @property
    def port(self) -> DraftPort:
        """Where rounds and seeds go."""

    def close(self) -> None:
        """End it."""


Connect = Callable[[Callable[[DraftEvent], None], Callable[[Budget], object]], Client]
"""(what takes events, what takes budgets) -> a client."""


class RunnerDrafts:
    """The proposer of one model runner; see ``hooks.Hooked`` for who calls what."""

    def __init__(
        self,
        settings: VllmSettings,
        identity: PairIdentity,
        projection: Projection,
        *,
        num_speculative_tokens: int,
        max_model_len: int,
        connect: Connect,
        curve: Curve | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over a pair's target side; nothing is connected before ``attach``."""
        self._settings = settings
        self._identity = identity
        self._projection = projection
        self._num_speculative_tokens = num_speculative_tokens
        self._max_model_len = max_model_len
        self._connect = connect
        self._curve = curve
        self._clock = clock
        self._inbox: queue.SimpleQueue[DraftEvent] = queue.SimpleQueue()
        layers = sorted(set(identity.target_layer_ids))
        self._taps = [layers.index(layer) for layer in identity.target_layer_ids]
        self._takes_laws = False
        self._group: TensorGroup | None = None
        self._client: Client | None = None
        self._steps: DraftSteps | None = None
        self._store: RowStore | None = None
        self._cell: BudgetCell | None = None
        self._teller = None if settings.line is None else StepTeller(settings.line, clock)
        self._wishes = WishBook()
        self._kv_group = 0
        self._block_tokens = 0
        self._runner: GPUModelRunner
        self._projector: Projector
        self.failure: Exception | None = None
        """What ended drafting, or None."""
        self.trial_tokens = 0
        """Length of drafts while steps are measured."""

    @property
    def steps(self) -> DraftSteps | None:
        """The drafting of this rank; None on ranks that take over another one's."""
        return self._steps

    def load_model(self, target: torch.nn.Module) -> None:
        """Nothing is loaded here: vLLM calls this before the target is set up (see ``attach``)."""

    def attach(self, runner: "GPUModelRunner", group: TensorGroup | None = None) -> None:
        """The target is loaded: ask it for the tapped layers, and connect.

        Raises:
            RuntimeError: This vLLM, or this model, cannot be drafted for.
        """
        model = runner.get_model()
        self._takes_laws = probe(runner, model)
        self._runner = runner
        self._group = group if group is not None and group.world_size > 1 else None
        # vLLM counts the layer that a state goes *into*; layer ids are the layer it comes out of.
        runner.use_aux_hidden_state_outputs = True
        model.set_aux_hidden_state_layers(
            tuple(layer + 1 for layer in sorted(set(self._identity.target_layer_ids)))
        )
        if hasattr(runner, "effective_drafter_max_model_len"):
            # No position of ours lies beyond a draft: requests near their end hold nobody up.
            runner.effective_drafter_max_model_len += self._num_speculative_tokens
        if self._group is not None and self._group.rank_in_group != 0:
            return
        self._projector = Projector(self._projection, runner.device)
        if self._teller is None:
            self._cell = _cell_of(self._curve)
        self._client = self._connect(self._inbox.put, self._offer)
        self._steps = DraftSteps(
            self._client.port,
            self._inbox,
            self,
            settings=self._settings.drafting,
            vocab_size=self._identity.vocab_size,
            budget=self._cell,
            curve=self._curve,
            clock=self._clock,
            seeds=iter(lambda: secrets.randbits(63), None),
        )
        log.info(
            "up to %d drafts by %s, layers %s, projection %s; sampling is judged by rejection %s",
            self._num_speculative_tokens,
            self._settings.controller or ", ".join(self._settings.drafters),
            self._identity.target_layer_ids,
            self._identity.projection_id[:12],
            "with the drafts' own laws"
            if self._takes_laws
            else "of one-hot drafts: this vLLM takes no laws (exact, but fewer are accepted)",
        )

    def take_curve(self, curve: Curve | None) -> None:
        """Admit by this curve from now on, and take budgets that were computed from it."""
        self._curve, self._cell = curve, _cell_of(curve)
        if self._steps is not None:
            self._steps.curve, self._steps.budget = curve, self._cell

    def close(self) -> None:
        """End the links; drafters free what they cached."""
        self._unlink()
        if self._teller is not None:
            self._teller.close()

    def _unlink(self) -> None:
        if self._client is not None:
            self._client.close()

    def _offer(self, budget: Budget) -> None:
        """Take a budget (the client's thread)."""
        cell = self._cell
        if cell is not None:
            cell.offer(budget, self._clock())

    def begin(self, scheduled: "SchedulerOutput") -> None:
        """Forget requests that ended or lost their KV, and follow copies of KV blocks."""
        if self._teller is not None:
            self._teller.begin(scheduled)
        self._wishes.forget(scheduled.finished_req_ids)
        self._guarded(lambda: self._begin(scheduled), None)

    def absorb(self) -> None:
        """Keep the context rows of everything that this step's forward computed."""
        self._guarded(self._absorb, None)

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: NDArray[np.integer],
        token_ids_cpu: NDArray[np.integer],
        slot_mappings: object = None,
    ) -> list[list[int]]:
        """Return each request's drafts, in vLLM's order; [] goes plainly.

        Args:
            sampled_token_ids: The step's new tokens by request; empty while a prompt still runs.
            num_tokens_no_spec: Committed tokens by request, the new ones included.
            token_ids_cpu: Those tokens [requests, length].
            slot_mappings: Not used.
        """
        requests = list(self._runner.input_batch.req_ids)
        nothing: dict[str, Proposal] = {}
        proposals = self._guarded(
            lambda: self._propose(requests, sampled_token_ids, num_tokens_no_spec, token_ids_cpu),
            nothing,
        )
        if self._group is not None:
            decided = self._group.broadcast_object(proposals, src=0)
            assert isinstance(decided, dict)
            proposals = decided
        proposals = {**proposals, **self._trials(requests)}
        self._tell(requests, sampled_token_ids, num_tokens_no_spec)
        laws = None
        if self._takes_laws and proposals:
            laws = dense_laws(
                requests,
                proposals,
                vocab_size=self._identity.vocab_size,
                device=self._runner.device,
            )
        if laws is not None:
            self._runner._draft_probs = laws
            self._runner._draft_prob_req_ids = requests
        return [
            list(proposals[request].tokens) if request in proposals else [] for request in requests
        ]

    def has(self, request: str, stop: int) -> bool:
        """Whether positions 0 .. stop - 1 of a request all have rows."""
        return self._store is not None and (
            stop == 0 or self._store.has(self._slots(request, 0, stop))
        )

    def read(self, request: str, start: int, stop: int) -> Rows:
        """Return rows [stop - start, D] of a request."""
        assert self._store is not None
        if start == stop:
            return self._store.read(np.zeros(0, dtype=np.int64))
        return self._store.read(self._slots(request, start, stop))

    def _trials(self, requests: Sequence[str]) -> dict[str, Proposal]:
        """Drafts of a given length, for whoever measures steps."""
        length = min(self.trial_tokens, self._num_speculative_tokens)
        if not length:
            return {}
        draft = Proposal(tokens=(0,) * length, confidences=(1.0,) * length)
        return {request: draft for request in requests if self._wishes_of(request).trial}

    def _tell(
        self,
        requests: Sequence[str],
        sampled: Sequence[Sequence[int]],
        num_tokens_no_spec: NDArray[np.integer],
    ) -> None:
        """Tell the replica of this step, if there is one."""
        if self._teller is None or self._steps is None:
            return
        outcomes = [
            outcome_of(
                request,
                self._runner.requests[request],
                self._wishes_of(request),
                sampled=sampled[index],
                num_tokens=int(num_tokens_no_spec[index]),
                takes_laws=self._takes_laws,
            )
            for index, request in enumerate(requests)
        ]
        self._teller.end(outcomes, self._steps, cell=self._cell, failure=self.failure)

    def _wishes_of(self, request: str) -> Wishes:
        return self._wishes.of(request, self._runner.requests[request].sampling_params)

    def _guarded(self, action: Callable[[], T], otherwise: T) -> T:
        if self._steps is None or self.failure is not None:
            return otherwise
        try:
            return action()
        except Exception as error:  # whatever it is, the engine can do without drafts
            self.failure = error
            log.exception("drafting failed and stays off; this engine decodes plainly from here on")
            # Ending links takes seconds where a peer hangs, and this step goes on now.
            threading.Thread(target=self._unlink, daemon=True).start()
            return otherwise

    def _begin(self, scheduled: "SchedulerOutput") -> None:
        assert self._steps is not None
        gone = {
            *scheduled.finished_req_ids,
            *(scheduled.preempted_req_ids or ()),
            *scheduled.scheduled_cached_reqs.resumed_req_ids,
        }
        for request in gone:
            self._steps.close(request)
        if self._store is not None:
            for copied in scheduled.kv_cache_block_copies or ():
                self._store.copy(self._block(copied.src_block_id), self._block(copied.dst_block_id))
        if not scheduled.total_num_scheduled_tokens:
            self._steps.flush()

    def _absorb(self) -> None:
        state = self._runner.execute_model_state
        batch = self._runner.input_batch
        scheduled = state.scheduler_output
        if self._store is None:
            self._store = self._new_store()
        parts = []
        for index, request in enumerate(batch.req_ids):
            start = int(batch.num_computed_tokens_cpu[index])
            count = scheduled.num_scheduled_tokens[request]
            parts.append(self._slots(request, start, start + count))
        slots = np.concatenate(parts)
        if state.aux_hidden_states is None:
            self._store.forget(slots)
            return
        taps = [state.aux_hidden_states[tap][: len(slots)] for tap in self._taps]
        with torch.inference_mode():
            rows = self._projector(taps).to(getattr(torch, self._settings.rows_dtype))
        self._store.write(slots, as_numpy(rows))

    def _propose(
        self,
        requests: Sequence[str],
        sampled: Sequence[Sequence[int]],
        num_tokens_no_spec: NDArray[np.integer],
        token_ids: NDArray[np.integer],
    ) -> dict[str, Proposal]:
        assert self._steps is not None
        decoding = []
        for index, request in enumerate(requests):
            if not sampled[index]:
                continue
            state = self._runner.requests[request]
            params = state.sampling_params
            num_tokens = int(num_tokens_no_spec[index])
            anchor = int(token_ids[index, num_tokens - 1])
            if ends_at(params, anchor):
                continue
            wishes = self._wishes_of(request)
            if wishes.trial:
                continue
            most = min(
                self._num_speculative_tokens if wishes.speculate else 0,
                wishes.max_draft_tokens or self._num_speculative_tokens,
            )
            room = self._max_model_len - num_tokens
            if params.max_tokens is not None:
                room = min(room, params.max_tokens - len(state.output_token_ids))
            decoding.append(
                Decoding(
                    request=request,
                    num_tokens=num_tokens,
                    anchor=anchor,
                    # The last token is always the target's own.
                    max_drafts=max(0, min(most, room - 1)),
                    sampling=drawn_as(params, self._takes_laws),
                    priority=wishes.priority,
                )
            )
        return self._steps.propose(decoding)

    def _slots(self, request: str, start: int, stop: int) -> Slots:
        block_ids = self._runner.requests[request].block_ids[self._kv_group]
        return slots_of(block_ids, self._block_tokens, start, stop)

    def _block(self, block_id: int) -> Slots:
        return slots_of((block_id,), self._block_tokens, 0, self._block_tokens)

    def _new_store(self) -> RowStore:
        """Lay out rows as vLLM laid out its KV cache.

        Raises:
            RuntimeError: No group of layers keeps the KV of every position.
        """
        config = self._runner.kv_cache_config
        for index, group in enumerate(config.kv_cache_groups):
            spec = group.kv_cache_spec
            if any(kind.__name__ == _FULL_ATTENTION for kind in type(spec).__mro__):
                self._kv_group, self._block_tokens = index, spec.block_size
                dtype = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}
                return RowStore(
                    config.num_blocks * spec.block_size,
                    self._projector.size,
                    np.dtype(dtype[self._settings.rows_dtype]),
                )
        raise RuntimeError(
            "dspark cannot draft for this target: none of its layers keeps the keys and values of "
            "the whole context; serve it without the DSpark proposer"
        )


def _cell_of(curve: Curve | None) -> BudgetCell:
    return BudgetCell(curve_version="" if curve is None else curve.version)
