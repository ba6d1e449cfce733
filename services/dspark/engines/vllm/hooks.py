"""Where the proposer looks into vLLM's model runner: two methods wrapped, the rest only read.

vLLM calls a proposer of a class of one's own with the sampled tokens alone.  What else is needed
(which requests, which positions, the hidden states, the sampler's slot for laws) lies in the
runner, whose private names these are.  Each is probed when the model is loaded.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

_MARK = "_dspark_hooked"
_METHODS = ("_setup_eagle3_aux_hidden_state_outputs", "execute_model", "propose_draft_token_ids")
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
    loaded: Callable[..., Any] = runner_class._setup_eagle3_aux_hidden_state_outputs  # type: ignore[attr-defined]
    execute: Callable[..., Any] = runner_class.execute_model  # type: ignore[attr-defined]

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
        hooked: Hooked = proposer
        hooked.begin(scheduler_output)
        output = execute(self, scheduler_output, *rest, **named)
        if self.execute_model_state is not None:
            hooked.absorb()
        return output

    runner_class._setup_eagle3_aux_hidden_state_outputs = setup_aux  # type: ignore[attr-defined]
    runner_class.execute_model = execute_model  # type: ignore[attr-defined]
    setattr(runner_class, _MARK, True)


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
