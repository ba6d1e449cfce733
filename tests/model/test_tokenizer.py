import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dspark.model.tokenizer import chat_token_ids, load_tokenizer, tokenizer_digest


def save(folder: Path, words: list[str], template: str | None = None) -> Path:
    vocab = {word: index for index, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    if template:
        wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    return folder


def test_the_digest_follows_the_vocabulary(tmp_path: Path) -> None:
    first = tokenizer_digest(save(tmp_path / "a", ["x", "y"]))
    assert first == tokenizer_digest(save(tmp_path / "b", ["x", "y"]))
    assert first != tokenizer_digest(save(tmp_path / "c", ["y", "x"]))
    assert tokenizer_digest(tmp_path) == ""


def test_padding_settings_do_not_count(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", ["x"])
    before = tokenizer_digest(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**raw, "truncation": {"max_length": 3}}))
    assert tokenizer_digest(folder) == before


def test_a_chat_is_rendered_by_the_models_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}y"
    tokenizer = load_tokenizer(save(tmp_path / "a", ["x", "y"], template))
    assert chat_token_ids(tokenizer, [{"role": "user", "content": "x"}]) == [1, 2]


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path / "a", ["x"]))
    with pytest.raises(ValueError, match="no chat template"):
        chat_token_ids(tokenizer, [])


def test_a_missing_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")
