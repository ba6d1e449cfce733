"""A model folder without weights: a byte-level tokenizer of three special tokens and one merge."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def write_toy_model(folder: Path, *, max_context_tokens: int = 128) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*alphabet, "th"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<end>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    eos, end = tokenizer.token_to_id("<eos>"), tokenizer.token_to_id("<end>")
    files = {
        "config.json": {"max_position_embeddings": max_context_tokens, "vocab_size": size},
        "generation_config.json": {"eos_token_id": [eos, end]},
        "tokenizer_config.json": {"eos_token": "<eos>", "pad_token": {"content": "<pad>"}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
