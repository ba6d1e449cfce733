"""A check of vLLM's rejection sampler, and the repair of what is known to be broken.

vLLM 0.32 without Triton (its CPU build) hands temperature and top-k of drafted positions through a
kernel that writes its result into a copy: the sampler then works with uninitialised memory.  Every
speculative method that samples is affected, and greedy requests beside a sampled one too.
"""

import logging

import torch

log = logging.getLogger(__name__)

_KERNEL = "vllm.v1.sample.rejection_sampler.expand_kernel"


def check_sampler(version: str) -> None:
    """Check, on the CPU, that values reach the drafted positions; put it right where they do not.

    Raises:
        RuntimeError: It cannot be put right.
    """
    from vllm.triton_utils.dispatcher import register_kernels

    if _expands():
        return
    register_kernels({_KERNEL: expand})
    if not _expands():
        raise RuntimeError(
            f"vLLM {version} is not supported by dspark on the CPU: temperature and top-k do not "
            "reach its rejection sampler; install triton-cpu"
        )
    log.warning(
        "vLLM %s loses temperature and top-k of drafted positions on the CPU: %s is replaced",
        version,
        _KERNEL,
    )


def expand(
    output: torch.Tensor,
    values: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int | None = None,
) -> None:
    """Repeat each request's value for each of its drafted positions, into ``output`` [tokens].

    Args:
        output: Written in place.
        values: [requests].
        cu_num_tokens: Drafted positions up to and including each request [requests].
        replace_from: Value that is replaced.
        replace_to: By this one.
        MAX_NUM_TOKENS: Not used; part of the kernel's form.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1)).long()
    kept = values.masked_fill(values == replace_from, replace_to)
    output.copy_(kept.repeat_interleave(counts))


def _expands() -> bool:
    from vllm.v1.sample.rejection_sampler import expand_batch_to_tokens

    values = torch.tensor([0.5, 0.25, 0.0])
    cumulated = torch.tensor([2, 2, 3], dtype=torch.int32)
    found = expand_batch_to_tokens(values, cumulated, 3, replace_from=0, replace_to=1)
    return bool((found == torch.tensor([0.5, 0.5, 1.0])).all())
