"""What a pool's replica can ask of its engine's workers, between two steps.

vLLM mixes this class into its worker (``worker_extension_cls``) and calls methods by name
(``collective_rpc``); their names must not be vLLM's.
"""

from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from dspark.core.curve import Curve
from dspark.engines.vllm.runner import RunnerDrafts

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

TAKE_CURVE, TRY_DRAFTS = "dspark_take_curve", "dspark_try_drafts"


class DraftWorker:
    """Reaches the proposer."""

    model_runner: "GPUModelRunner"

    def dspark_take_curve(self, curve: str | None) -> None:
        """Admit by a curve (JSON) from now on, and follow budgets that were computed from it."""
        taken = None if curve is None else TypeAdapter(Curve).validate_json(curve)
        self._drafts().take_curve(taken)

    def dspark_try_drafts(self, num_tokens: int) -> None:
        """Let requests on trial have drafts of this length."""
        self._drafts().trial_tokens = num_tokens

    def _drafts(self) -> RunnerDrafts:
        drafts = self.model_runner.drafter
        assert isinstance(drafts, RunnerDrafts)
        return drafts
