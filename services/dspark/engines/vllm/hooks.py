"""Where the proposer looks into vLLM's model runner: three methods wrapped, the rest only read.

vLLM calls a proposer of a class of one's own with the sampled tokens alone.  What else is needed
(which requests, which positions, the hidden states, the sampler's slot for laws) lies in the
runner, whose private names these are.  Each is probed when the model is loaded.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

_MARK = "_dspark_hooked"
_METHODS = (
    "_setup_eagle3_aux_hidden_state_outputs",
    "execute_model",
    "_sample",
    "propose_draft_token_ids",
)
_ATTRIBUTES = ("use_aux_hidden_state_outputs", "input_batch", "requests", "execute_model_state")
_LAWS = ("_draft_probs", "_draft_prob_req_ids", "_get_spec_decode_draft_probs")


class Hooked(Protocol):
    """What the wrapped methods tell."""

    def attach(self, runner: "GPUModelRunner") -> None:
        """The target is loaded, and nothing was compiled or run yet."""

    def begin(self, scheduled: "SchedulerOutput") -> None:
        """A step begins; vLLM has not touched its state yet."""

    def absorb(self) -> None:
        """The step's forward has run, and nothing was sampled yet."""


def install(runner_class: type, proposer_class: type) -> None:
    """Wrap the methods, once a process; runners with other proposers are left as they are.

    Raises:
        RuntimeError: This version lacks a method.
    """
    if getattr(runner_class, _MARK, False):
        return
    missing = [name for name in _METHODS if not hasattr(runner_class, name)]
    if missing:
        raise RuntimeError(_lacking(missing[0]))
    loaded, execute, sample = (getattr(runner_class, name) for name in _METHODS[:3])

    @functools.wraps(loaded)
    def setup_aux(self: "GPUModelRunner") -> None:
        loaded(self)
        if isinstance(getattr(self, "drafter", None), proposer_class):
            self.drafter.attach(self)

    @functools.wraps(execute)
    def execute_model(
        self: "GPUModelRunner", scheduler_output: "SchedulerOutput", *rest: Any, **named: Any
    ) -> Any:
        proposer = getattr(self, "drafter", None)
        if not isinstance(proposer, proposer_class):
            return execute(self, scheduler_output, *rest, **named)
        return _step(
            cast(Hooked, proposer),
            self,
            scheduler_output,
            lambda: execute(self, scheduler_output, *rest, **named),
        )

    @functools.wraps(sample)
    def sample_step(self: "GPUModelRunner", logits: Any, metadata: Any) -> Any:
        # A step without a draft is a plain step, by the sampler of plain vLLM: its rejection
        # sampler fails on an empty batch of drafts (top-k on the CPU).
        ours = isinstance(getattr(self, "drafter", None), proposer_class)
        if ours and metadata is not None and not any(metadata.num_draft_tokens):
            metadata = None
        return sample(self, logits, metadata)

    for name, wrapped in zip(_METHODS, (setup_aux, execute_model, sample_step), strict=False):
        setattr(runner_class, name, wrapped)
    setattr(runner_class, _MARK, True)


def _step(
    hooked: Hooked,
    runner: "GPUModelRunner",
    scheduled: "SchedulerOutput",
    execute: Callable[[], Any],
) -> Any:
    hooked.begin(scheduled)
    output = execute()
    if runner.execute_model_state is not None:
        hooked.absorb()
    return output


def probe(runner: object, model: object) -> bool:
    """Check every private name that is read; return whether the sampler takes laws.

    Raises:
        RuntimeError: Naming the first that is missing.
    """
    for name in _ATTRIBUTES:
        if not hasattr(runner, name):
            raise RuntimeError(_lacking(name))
    if not hasattr(model, "set_aux_hidden_state_layers"):
        raise RuntimeError(
            f"dspark cannot draft for {type(model).__name__}: vLLM does not hand out the hidden "
            "states of its layers (no SupportsEagle3); serve it without the DSpark proposer"
        )
    return all(hasattr(runner, name) for name in _LAWS)


def _lacking(name: str) -> str:
    try:
        import vllm

        version = vllm.__version__
    except ImportError:
        version = "(not installed)"
    return (
        f"vLLM {version} is not supported by dspark: its model runner has no {name}; "
        "see docs/vllm.md for the versions that are"
    )
