"""Prompts: prefixes of training documents to generate from, held-out ones to judge by."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from dspark.training.corpus import DOMAINS, Document
from dspark.training.stream import document_ids, load_streams


class PromptSource:
    """Draws prefixes of training documents, plain and chat, and windows of the token streams."""

    def __init__(self, corpus: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.streams = load_streams(corpus / "train.npz")
        bos = tokenizer.bos_token_id
        self._starts = {
            domain: np.flatnonzero(ids == bos) for domain, ids in self.streams.ids.items()
        }

    def prefixes(
        self, rng: np.random.Generator, count: int, length: int, shares: dict[str, float]
    ) -> torch.Tensor:
        """Draw ``count`` prefixes [count, length] (int64) that begin at a document's bos.

        A document shorter than ``length`` runs into the next one, as in training.
        """
        domains = list(shares)
        weights = np.array([shares[d] for d in domains])
        rows = []
        for index in rng.choice(len(domains), size=count, p=weights / weights.sum()):
            ids = self.streams.ids[domains[index]]
            starts = self._starts[domains[index]]
            start = int(starts[rng.integers(0, np.searchsorted(starts, len(ids) - length))])
            rows.append(ids[start : start + length].astype(np.int64))
        return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPrompt:
    """One prompt to judge by; ``prompt`` is plain text, without special tokens."""

    domain: str
    prompt: str


def held_out_prompts(
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    counts: dict[str, int],
    *,
    seed: int = 3,
    shortest: int = 32,
    longest: int = 160,
) -> list[HeldOutPrompt]:
    """Cut prompts of ``shortest``..``longest`` tokens from held-out plain documents.

    A prompt begins where a document begins, or at a paragraph of it that no other prompt holds,
    and ends at a line's end where one lies near its drawn length.
    """
    rng = np.random.default_rng(seed)
    chosen: list[HeldOutPrompt] = []
    for domain in DOMAINS:
        pieces = [
            piece
            for document in documents
            if document.domain == domain and document.question is None
            for piece in _starts(document.text, 500 if domain == "prose" else 1500)
        ]
        found: list[HeldOutPrompt] = []
        for index in rng.permutation(len(pieces)):
            length = int(rng.integers(shortest + 8, longest - 16))
            ids = tokenizer.encode(pieces[index], add_special_tokens=False)
            if len(ids) < length + 64:
                continue
            text = tokenizer.decode(ids[:length])
            cut = text.rfind("\n", len(text) // 2) + 1
            text = text[:cut] if cut else text
            if shortest <= len(tokenizer.encode(text)) <= longest and "\ufffd" not in text:
                found.append(HeldOutPrompt(domain=domain, prompt=text))
            if len(found) == counts[domain]:
                break
        chosen.extend(found)
    return chosen


def _starts(text: str, spacing: int) -> list[str]:
    """Cut a document into stretches of at least ``spacing`` characters at blank lines."""
    out, rest = [], text
    while len(rest) > 400:
        out.append(rest)
        at = rest.find("\n\n", spacing)
        if at < 0:
            break
        rest = rest[at:].lstrip("\n")
    return out


def write_prompts(path: Path, prompts: list[HeldOutPrompt]) -> None:
    """Write prompts as JSON lines of ``domain`` and ``prompt``."""
    lines = [json.dumps({"domain": p.domain, "prompt": p.prompt}) for p in prompts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_prompts(path: Path) -> list[HeldOutPrompt]:
    """Read prompts written by ``write_prompts``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [HeldOutPrompt(domain=row["domain"], prompt=row["prompt"]) for row in rows]


def chat_ids(tokenizer: PreTrainedTokenizerFast, question: str) -> list[int]:
    """Encode a user's turn as the chat template does, up to the assistant's turn."""
    ids = document_ids(tokenizer, Document(domain="", group="", text="", question=question))
    return ids[: ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1]
