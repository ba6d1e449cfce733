"""The model behind this gateway, as far as a gateway must know it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from huggingface_hub import snapshot_download

from dspark.gateway.codec import FolderCodec, TextCodec, read_json
from dspark.model.grammar import Grammars

_BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "*.jinja"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Name, text codec and limits.

    Attributes:
        name: What clients ask for.
        codec: Text to ids and back.
        max_context_tokens: Prompt and completion together.
        vocab_size: Ids at or above it are refused.
        stop_token_ids: End of text and end of turn.
        grammars: Checks grammars.
        spell: The bytes of a token.
    """

    name: str
    codec: TextCodec
    max_context_tokens: int
    vocab_size: int
    stop_token_ids: frozenset[int]
    grammars: Grammars
    spell: Callable[[int], bytes]


def load_served_model(name: str, target: str) -> ServedModel:
    """Read what a gateway needs from the target's folder.

    Args:
        name: Model name.
        target: As of ``resolve_folder``.

    Raises:
        ValueError: The folder or a file of it is missing or says nothing usable.
    """
    folder = resolve_folder(target)
    config = read_json(folder / "config.json")
    if not config:
        raise ValueError(f"no model at {folder}: config.json does not exist")
    codec = FolderCodec(folder)
    text_config = config.get("text_config")
    sizes = text_config if isinstance(text_config, dict) else config
    generation = read_json(folder / "generation_config.json")
    stop_ids = _ids(generation.get("eos_token_id")) | _ids(sizes.get("eos_token_id"))
    if codec.eos_token_id is not None:
        stop_ids |= {codec.eos_token_id}
    vocab_size = _size(sizes, "vocab_size", folder)
    grammars = Grammars((folder / "tokenizer.json").read_text(encoding="utf-8"), vocab_size)
    return ServedModel(
        name=name,
        codec=codec,
        max_context_tokens=_size(sizes, "max_position_embeddings", folder),
        vocab_size=vocab_size,
        stop_token_ids=frozenset(stop_ids),
        grammars=grammars,
        spell=grammars.speller(frozenset(stop_ids)),
    )


def resolve_folder(target: str) -> Path:
    """Return the folder that ``target`` stands for.

    Args:
        target: A folder; ``builtin:`` and a path within this package; or ``owner/name`` on the
            Hugging Face hub, of which everything but the weights is fetched.

    Raises:
        ValueError: There is no such folder.
    """
    if target.startswith(_BUILTIN):
        folder = Path(str(resources.files("dspark"))) / target.removeprefix(_BUILTIN)
    else:
        folder = Path(target).expanduser()
    if not folder.is_dir() and _HUB_ID.fullmatch(target):
        try:
            folder = Path(snapshot_download(target, allow_patterns=_HUB_FILES))
        except Exception as error:  # The hub client raises a dozen unrelated types.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"target {target} is no folder here and cannot be fetched from the hub ({reason})"
            ) from error
    if not folder.is_dir():
        raise ValueError(f"target folder {folder} does not exist: check the path")
    return folder


def _size(config: Mapping[str, object], name: str, folder: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{folder / 'config.json'}: {name} is {value!r}, not a size")
    return value


def _ids(value: object) -> frozenset[int]:
    """Token ids written as one number, a list, or nothing."""
    values = value if isinstance(value, list) else [value]
    return frozenset(item for item in values if isinstance(item, int))
