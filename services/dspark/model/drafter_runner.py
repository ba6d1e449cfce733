"""The drafter as a pool serves it: sessions' contexts in, blocks of proposals out.

Context rows arrive as the target commits tokens; their keys and values are computed once.  A
round runs one block for every session asked, samples it left to right, and rates each token with
a calibrated confidence.  Sessions of coupled sampling use the noise of the absolute positions (the
target's own); those of rejection sampling randomness of this drafter's own, and get the laws that
their tokens were drawn from.
"""

import secrets
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dspark.core.draft import DraftRequest, Proposal
from dspark.core.draft_laws import DraftLaws
from dspark.core.sampling import Sampling
from dspark.model.block_forward import BlockForward
from dspark.model.checkpoint import load_drafter
from dspark.model.context_cache import ContextCache
from dspark.model.drafter import DSparkDrafter
from dspark.model.kv_pool import as_tensor
from dspark.model.sampling_rows import sampling_batch
from dspark.model.sts import Calibration, identity, read_calibration
from dspark_kernels.rejection_draft import Drawn, draw_block
from dspark_kernels.sampling import SamplingBatch
from dspark_kernels.sequential_head import Bias, LowRankBias, draft_tokens

ABSORB_ROWS = 64
"""Pending rows from which they are run at once instead of with the next block."""


class BlockDrafter:
    """A DSpark drafter over many sessions; for one thread at a time."""

    def __init__(
        self,
        drafter: DSparkDrafter,
        *,
        calibration: Calibration | None = None,
        max_sessions: int = 256,
        max_context_tokens: int = 131072,
        max_q_tokens: int = 64,
        nonces: Iterator[int] | None = None,
    ) -> None:
        """Take over a loaded drafter.

        Args:
            drafter: In float32 on the CPU.
            calibration: Temperatures of the confidences; None changes nothing.
            max_sessions: Sessions open at once.
            max_context_tokens: Cached rows over all sessions.
            max_q_tokens: Tokens that a law of rejection sampling is cut to.
            nonces: Numbers 0 .. 2**63 - 1, each key to one round's draws; None for random ones.
        """
        config = drafter.config
        self._drafter = drafter
        self._config = config
        with torch.inference_mode():
            self._forward = BlockForward(drafter)
            self._confidence = Confidence(drafter) if config.enable_confidence_head else None
            self._vanilla = (
                LowRankBias(
                    drafter.markov_head.markov_w1.weight, drafter.markov_head.markov_w2.weight
                )
                if config.markov_head_type == "vanilla"
                else None
            )
        self._temperatures = _Temperatures(calibration or identity(config.gamma))
        self._max_q_tokens = max_q_tokens
        self._nonces = nonces or iter(lambda: secrets.randbits(63), None)
        self._max_sessions = max_sessions
        self._max_context_tokens = max_context_tokens
        self._sessions: dict[Hashable, ContextCache] = {}
        self._context_tokens = 0

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        gamma: int | None = None,
        target_embedding: torch.Tensor | None = None,
        max_sessions: int = 256,
        max_context_tokens: int = 131072,
        max_q_tokens: int = 64,
    ) -> "BlockDrafter":
        """Load a drafter folder with its calibration.

        Raises:
            ValueError: One line that says what is wrong and the way out.
        """
        path = Path(folder)
        drafter = load_drafter(path, gamma=gamma, target_embedding=target_embedding)
        return cls(
            drafter,
            calibration=read_calibration(path, drafter.config.gamma),
            max_sessions=max_sessions,
            max_context_tokens=max_context_tokens,
            max_q_tokens=max_q_tokens,
        )

    @property
    def gamma(self) -> int:
        """Largest block."""
        return self._config.gamma

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return len(self._sessions)

    @property
    def context_tokens(self) -> int:
        """Rows cached over all sessions."""
        return self._context_tokens

    def open(self, key: Hashable, sampling: Sampling) -> bool:
        """Begin a session, or begin it anew; False when there is no room for one more."""
        self.close(key)
        if len(self._sessions) >= self._max_sessions:
            return False
        self._sessions[key] = ContextCache(key, sampling)
        return True

    def cached(self, key: Hashable) -> int | None:
        """Rows cached for a session; None when it is unknown."""
        session = self._sessions.get(key)
        return None if session is None else session.cached

    def append(self, key: Hashable, start: int, rows: NDArray[np.generic]) -> int:
        """Cache context rows of positions start, start + 1, ...

        Args:
            key: An open session.
            start: Must be the number of rows cached so far.
            rows: [n, D] float32, float16, or uint16 holding bfloat16.

        Returns:
            Rows cached now.

        Raises:
            ValueError: Unknown session, a gap or a repeat, or rows of another width.
            MemoryError: No room for these rows; nothing changed.
        """
        session = self._sessions.get(key)
        if session is None:
            raise ValueError(f"session {key} is not open")
        if start != session.cached:
            raise ValueError(f"rows from {start} on for a session with {session.cached} cached")
        if rows.ndim != 2 or rows.shape[1] != self._config.hidden_size:
            raise ValueError(
                f"rows of shape {rows.shape} for a drafter of width {self._config.hidden_size}"
            )
        if self._context_tokens + len(rows) > self._max_context_tokens:
            raise MemoryError(f"{len(rows)} rows more than the {self._max_context_tokens} that fit")
        if len(rows):
            session.add(as_tensor(rows).float())
            self._context_tokens += len(rows)
            if session.num_pending >= ABSORB_ROWS:
                with torch.inference_mode():
                    self._forward.run([session], None)
        return session.cached

    def close(self, key: Hashable) -> None:
        """Free a session; an unknown one is ignored."""
        session = self._sessions.pop(key, None)
        if session is not None:
            self._context_tokens -= session.cached

    @torch.inference_mode()
    def draft(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Draft one block for each request, all in one pass.

        A request that is asked twice is answered twice alike; one that later rows have
        overtaken (its context has grown beyond its anchor) gets no tokens.

        Raises:
            ValueError: A session is unknown or rows before its anchor are missing.
        """
        current = {request.key: request for request in requests if self._is_current(request)}
        blocks = self._blocks(list(current.values())) if current else {}
        nothing = Proposal(tokens=(), confidences=())
        return [
            _cut(blocks[request.key], request.max_tokens)
            if current.get(request.key, request).base_length == request.base_length
            and request.key in blocks
            else nothing
            for request in requests
        ]

    def _is_current(self, request: DraftRequest) -> bool:
        session = self._sessions.get(request.key)
        if session is None:
            raise ValueError(f"session {request.key} is not open")
        if session.cached < request.base_length:
            raise ValueError(
                f"session {request.key} has {session.cached} rows cached where the anchor is "
                f"at {request.base_length}"
            )
        return session.cached == request.base_length

    def _blocks(self, requests: Sequence[DraftRequest]) -> dict[Hashable, Proposal]:
        """Blocks of different sessions, as long as the longest one asked for."""
        sessions = [self._sessions[request.key] for request in requests]
        anchors = torch.tensor([request.anchor for request in requests])
        h = self._forward.run(sessions, anchors)
        assert h is not None
        h = h[:, : min(self.gamma, max(request.max_tokens for request in requests))]
        sampling = sampling_batch(
            [session.sampling for session in sessions],
            [request.base_length + 1 for request in requests],
        )
        tokens, laws = self._sample(sessions, h, anchors, sampling)
        confidences = self._confidences(sessions, h, anchors, tokens).tolist()
        return {
            request.key: Proposal(
                tokens=tuple(chosen), confidences=tuple(rated), laws=laws.get(row)
            )
            for row, (request, chosen, rated) in enumerate(
                zip(requests, tokens.tolist(), confidences, strict=True)
            )
        }

    def _sample(
        self,
        sessions: Sequence[ContextCache],
        h: torch.Tensor,
        anchors: torch.Tensor,
        sampling: SamplingBatch,
    ) -> tuple[torch.Tensor, dict[int, DraftLaws]]:
        """Tokens [R, G], and the laws of the rows that are judged by rejection."""
        logits = self._forward.logits(h)
        drawn_rows = [row for row, session in enumerate(sessions) if session.sampling.rejects]
        if not drawn_rows:
            return draft_tokens(logits, anchors, self._bias(h), sampling), {}
        tokens = torch.empty(h.shape[:2], dtype=torch.int64)
        rows = torch.tensor(drawn_rows)
        drawn = draw_block(
            logits[rows], anchors[rows], self._bias(h[rows]), sampling.at(rows),
            max_tokens=self._max_q_tokens, nonce=next(self._nonces),
        )  # fmt: skip
        tokens[rows] = drawn.tokens
        if len(drawn_rows) < len(sessions):
            rest = torch.tensor(sorted(set(range(len(sessions))) - set(drawn_rows)))
            tokens[rest] = draft_tokens(
                logits[rest], anchors[rest], self._bias(h[rest]), sampling.at(rest)
            )
        return tokens, {row: _laws(drawn, index) for index, row in enumerate(drawn_rows)}

    def _bias(self, h: torch.Tensor) -> Bias | None:
        """The sequential head for this block; gated and rnn heads by their own module."""
        if self._vanilla is not None or self._config.markov_head_type == "none":
            return self._vanilla
        state: torch.Tensor | None = None

        def bias(index: int, previous: torch.Tensor) -> torch.Tensor | None:
            nonlocal state
            shift, state = self._drafter.head_bias(previous, h[:, index], state)
            return shift

        return bias

    def _confidences(
        self,
        sessions: Sequence[ContextCache],
        h: torch.Tensor,
        anchors: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """Calibrated c_k [R, G]: it sees x_{k-1}, never x_k.  Without a head all are 1."""
        if self._confidence is None:
            return torch.ones(tokens.shape)
        previous = torch.cat([anchors.unsqueeze(1), tokens[:, :-1]], dim=1)
        temperatures = self._temperatures.of([session.sampling for session in sessions])
        return self._confidence.logits(h, previous).div_(temperatures[:, : h.shape[1]]).sigmoid_()


class Confidence:
    """The confidence head as a dot product and a table: the part that reads a token is tabulated.

    Logits in fp32 as ``DSparkDrafter.confidence_logits`` has them, but for the last bits.
    """

    def __init__(self, drafter: DSparkDrafter) -> None:
        config, proj = drafter.config, drafter.confidence_head.proj
        weight, bias = proj.weight.detach().float()[0], proj.bias.detach().float()
        self._weight = weight[: config.hidden_size].contiguous()
        self._of_token = bias.expand(config.vocab_size)
        if config.confidence_head_with_markov and config.markov_rank:
            rows = drafter.markov_head.markov_w1.weight.detach().float()
            self._of_token = rows @ weight[config.hidden_size :] + bias

    def logits(self, h: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Logits [R, G] of h_k [R, G, D] and x_{k-1} [R, G]."""
        return torch.matmul(h, self._weight).add_(self._of_token[previous])


class _Temperatures:
    """Rows of calibration temperatures; those of sessions that are all alike are made once."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._alike: dict[tuple[float, ...], torch.Tensor] = {}

    def of(self, samplings: Sequence[Sampling]) -> torch.Tensor:
        """Return [R, gamma], or [1, gamma] where all are alike."""
        rows = [self._calibration.of(sampling) for sampling in samplings]
        if rows.count(rows[0]) < len(rows):
            return torch.tensor(rows)
        if rows[0] not in self._alike:
            self._alike[rows[0]] = torch.tensor(rows[:1])
        return self._alike[rows[0]]


def _cut(proposal: Proposal, max_tokens: int) -> Proposal:
    if len(proposal.tokens) <= max_tokens:
        return proposal
    return Proposal(
        tokens=proposal.tokens[:max_tokens],
        confidences=proposal.confidences[:max_tokens],
        laws=None if proposal.laws is None else proposal.laws.first(max_tokens),
    )


def _laws(drawn: Drawn, row: int) -> DraftLaws:
    """The laws of one block, without the tokens that they cannot draw."""
    kept = drawn.weights[row] > 0.0
    return DraftLaws(
        counts=tuple(kept.sum(axis=1).tolist()),
        ids=drawn.ids[row][kept],
        weights=drawn.weights[row][kept],
    )
