"""Text to token ids and back, as the served model's folder defines it.

Read straight from the folder's ``tokenizer.json`` and chat template: a gateway needs no torch and
starts in a moment.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer


class TextCodec(Protocol):
    """What the gateway needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a raw prompt, with the tokens that start a text."""
        ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation, up to where the assistant speaks.

        Raises:
            ValueError: The model has no chat template, or the template refuses the messages.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        ...


class FolderCodec:
    """A codec read from a Hugging Face model folder.

    Args:
        folder: Holds tokenizer.json, and a chat template in either of its usual places.

    Raises:
        ValueError: A file is missing or not readable as what it should be.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"no tokenizer: {path} does not exist")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises bare Exception.
            raise ValueError(f"{path} is not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = read_json(folder / "tokenizer_config.json")
        self._special = _special_tokens(config)
        self._render = _chat_renderer(_chat_template(folder, config))
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self._single: dict[int, str] = {}

    def token_id(self, token: str) -> int | None:
        """Return a token's id, or None when the vocabulary has no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    @property
    def eos_token_id(self) -> int | None:
        """The id of the tokenizer's end-of-sequence token, or None."""
        eos = self._special.get("eos_token")
        return None if eos is None else self.token_id(eos)

    def encode(self, text: str) -> list[int]:
        """See TextCodec."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """See TextCodec."""
        if self._render is None:
            raise ValueError("the served model has no chat template; use /v1/completions")
        try:
            text = self._render(messages, self._special)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error
        # The template writes the special tokens itself.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See TextCodec."""
        if len(ids) != 1:
            return self._decode(ids)
        # Of a growing text every token is decoded alone once: kept, one string a vocabulary entry.
        text = self._single.get(ids[0])
        if text is None:
            text = self._single[ids[0]] = self._decode(ids)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def read_json(path: Path) -> Mapping[str, object]:
    """Return a JSON object from a file; empty when there is no such file.

    Raises:
        ValueError: The file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    return value


def _special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """Named special tokens, each written as a string or as an object with ``content``."""
    tokens: dict[str, str] = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens


def _chat_template(folder: Path, config: Mapping[str, object]) -> str | None:
    """The template's text: a file of its own, or a field of the tokenizer's configuration."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


_Renderer = Callable[[Sequence[Mapping[str, str]], Mapping[str, str]], str]


def _chat_renderer(template: str | None) -> _Renderer | None:
    """Compile a template in the sandbox and dialect that transformers gives it."""
    if template is None:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise_exception
    try:
        compiled = environment.from_string(template)
    except TemplateError as error:
        raise ValueError(f"the chat template does not compile: {error}") from error

    def render(messages: Sequence[Mapping[str, str]], special: Mapping[str, str]) -> str:
        return compiled.render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None, **special
        )

    return render


def _raise_exception(message: str) -> str:
    raise TemplateError(message)
