"""The target's tokenizer: loading it, and a digest that two processes can compare.

Equal digests mean that equal text gives equal ids: the digest covers everything in
``tokenizer.json`` that takes part in that, and nothing else.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dspark.model.target_folder import local_folder

_PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub id.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    folder = local_folder(path, what="tokenizer")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"tokenizer of {path} cannot be loaded: {line}") from error
    return tokenizer


def tokenizer_digest(path: str | Path) -> str:
    """Digest of the tokenizer in a folder: 32 hexadecimal characters, "" where there is none."""
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        return ""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): is the download complete?") from error
    kept = {name: raw.get(name) for name in _PARTS}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def chat_token_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> list[int]:
    """Token ids of a conversation by the model's own chat template, ready for the answer.

    Raises:
        ValueError: The model has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("this model has no chat template: use /v1/completions")
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return [int(token) for token in ids]
