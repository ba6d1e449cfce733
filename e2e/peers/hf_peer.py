"""Hugging Face ``generate``: ``plain`` (static batches) or ``prompt-lookup`` (one at a time)."""

import os
import sys

import torch

from dspark.model.target_folder import load_causal_lm, read_sizes
from e2e.peers.cell import Answer, Cell, serve, timed
from e2e.vllm.prompts import TARGET

_LOOKUP_TOKENS = 7


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    lookup = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS} if sys.argv[1] == "prompt-lookup" else {}
    model = load_causal_lm(TARGET, device="cpu")
    model.set_attn_implementation("sdpa")  # its default
    ends = set(read_sizes(TARGET).eos_token_ids)
    pad = min(ends)

    def batch(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False,
                pad_token_id=pad, **lookup,
            )  # fmt: skip
        return [_until_end(row[longest:].tolist(), ends) for row in out]

    def generate(cell: Cell) -> Answer:
        # Prompt lookup takes one request at a time.
        size = 1 if lookup else cell.concurrency
        outputs: list[list[int]] = []
        latencies_s: list[float] = []
        for first in range(0, len(cell.prompts), size):
            part = [list(prompt) for prompt in cell.prompts[first : first + size]]
            tokens, seconds = timed(lambda part=part: batch(part, cell.max_tokens))
            outputs += tokens
            latencies_s += [seconds] * len(part)
        return Answer(outputs=outputs, latencies_s=latencies_s, seconds=sum(latencies_s[::size]))

    serve(generate)


def _until_end(tokens: list[int], ends: set[int]) -> list[int]:
    for index, token in enumerate(tokens):
        if token in ends:
            return tokens[: index + 1]
    return tokens


if __name__ == "__main__":
    main()
