"""Token streams: documents as ids, concatenated per domain, and random windows over them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from dspark.training.corpus import DOMAINS, Document
from dspark.training.tokenizer import ASSISTANT, BOS, END, EOS, USER


def document_ids(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    """Encode a document: bos, text or chat turns as the chat template renders them, eos."""
    if document.question is None:
        text = f"{BOS}{document.text}{EOS}"
    else:
        text = f"{BOS}{USER}{document.question}{END}{ASSISTANT}{document.text}{END}{EOS}"
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """One long row of token ids per domain (uint16)."""

    ids: dict[str, np.ndarray]

    def num_tokens(self) -> dict[str, int]:
        """Count the tokens of each domain."""
        return {domain: len(row) for domain, row in self.ids.items()}

    def windows(
        self, rng: np.random.Generator, num_windows: int, length: int, shares: dict[str, float]
    ) -> torch.Tensor:
        """Draw windows [num_windows, length] (int64) at random offsets, domains by ``shares``."""
        domains = list(shares)
        weights = np.array([shares[d] for d in domains])
        drawn = rng.choice(len(domains), size=num_windows, p=weights / weights.sum())
        rows = []
        for index in drawn:
            row = self.ids[domains[index]]
            start = int(rng.integers(0, len(row) - length))
            rows.append(row[start : start + length].astype(np.int64))
        return torch.from_numpy(np.stack(rows))


def build_streams(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[Document], seed: int
) -> Streams:
    """Encode and concatenate documents per domain, in an order shuffled by ``seed``."""
    rows: dict[str, list[np.ndarray]] = {domain: [] for domain in DOMAINS}
    for document in documents:
        rows[document.domain].append(np.array(document_ids(tokenizer, document), dtype=np.uint16))
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for domain, pieces in rows.items():
        order = rng.permutation(len(pieces))
        out[domain] = np.concatenate([pieces[i] for i in order]) if pieces else np.zeros(0, "u2")
    return Streams(ids=out)


def save_streams(path: Path, streams: Streams) -> None:
    """Write streams as one .npz."""
    np.savez(path, **streams.ids)  # type: ignore[arg-type]  # numpy types the keywords as bool


def load_streams(path: Path) -> Streams:
    """Read streams written by ``save_streams``."""
    with np.load(path) as archive:
        return Streams(ids={domain: archive[domain] for domain in archive.files})
