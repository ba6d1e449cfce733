"""A target's folder: what it says of itself, and the model loaded from it.

Every refusal is one line that names the value and a way out.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.utils import logging

from dspark.model import paged_attention

BUILTIN = "builtin:"
"""Prefix of folders that ship with this package."""

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """Shape of a target.

    Attributes:
        architecture: Class name, for people.
        vocab_size: V, columns of the logits.
        hidden_size: D.
        num_layers: Decoder layers.
        eos_token_ids: Tokens that end a generation; may be empty.
        max_context_tokens: Longest sequence that the positions are made for.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    eos_token_ids: tuple[int, ...]
    max_context_tokens: int


def local_folder(path: str | Path, *, what: str) -> Path:
    """The folder that a path, ``builtin:`` name or hub id stands for.

    Args:
        path: A folder; or ``builtin:`` and a path within this package; or ``owner/name`` on the
            Hugging Face hub, which is fetched once and then read from the local cache.
        what: "target" or "drafter", for the message.

    Raises:
        ValueError: There is no such folder, or it has no config.json.
    """
    text = str(path)
    if text.startswith(BUILTIN):
        folder = Path(str(resources.files("dspark"))) / text.removeprefix(BUILTIN)
    else:
        folder = Path(path).expanduser()
    if not folder.is_dir() and _is_hub_id(text):
        try:
            folder = Path(snapshot_download(text, allow_patterns=HUB_FILES))
        except Exception as error:  # the hub client raises a dozen unrelated types
            raise ValueError(
                f"{what} {text} is no folder here and cannot be fetched from the hub "
                f"({_first_line(error)}): check the name, or download it and give the folder"
            ) from error
    if not folder.is_dir():
        raise ValueError(f"{what} folder {text} does not exist: check the path")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{what} folder {folder} has no config.json: is it a model folder?")
    return folder


def _is_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and ":" not in text


def describe(config: PreTrainedConfig, generation: GenerationConfig | None = None) -> TargetInfo:
    """Read a Hugging Face configuration, nested text configurations included.

    Args:
        config: Of the model.
        generation: Its generation settings, whose end tokens count too.
    """
    text = config.get_text_config()
    ends: set[int] = set()
    for source in (generation, config, text):
        value = getattr(source, "eos_token_id", None)
        ends.update([] if value is None else [value] if isinstance(value, int) else value)
    names = getattr(config, "architectures", None) or [type(config).__name__]
    return TargetInfo(
        architecture=names[0],
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        eos_token_ids=tuple(sorted(ends)),
        max_context_tokens=getattr(text, "max_position_embeddings", 2048),
    )


def read_sizes(path: str | Path) -> TargetInfo:
    """Read the shape of the model in a folder (or hub id) without loading it.

    Raises:
        ValueError: The folder is missing or its configuration cannot be read.
    """
    folder = local_folder(path, what="target")
    try:
        return describe(AutoConfig.from_pretrained(folder))
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"target {path} cannot be read: {_first_line(error)}") from error


def load_causal_lm(path: str | Path, *, device: str, dtype: torch.dtype | None = None) -> nn.Module:
    """Load a causal LM with Hugging Face's own eager attention, for inference.

    Args:
        path: Folder or hub id.
        device: Torch device.
        dtype: Of the weights; default float32 on the CPU, as stored elsewhere.

    Raises:
        ValueError: Missing or unreadable folder, or an architecture without a causal LM.
    """
    folder = local_folder(path, what="target")
    wanted: torch.dtype | str = dtype or (torch.float32 if device == "cpu" else "auto")
    logging.disable_progress_bar()  # a replica's output is a log, not a terminal
    try:
        config = AutoConfig.from_pretrained(folder)
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=wanted, attn_implementation="eager"
        )
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"target {path} cannot be loaded: {_first_line(error)}") from error
    return model.to(device).eval().requires_grad_(False)


def use_paged_attention(model: nn.Module) -> None:
    """Switch a loaded model to the paged attention function.

    Raises:
        ValueError: The architecture cannot be given an attention function.
    """
    name = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(
            f"{name} does not take an attention function (_supports_attention_backend is "
            "False): this architecture cannot be served"
        )
    try:
        model.set_attn_implementation(paged_attention.NAME)  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"{name} refuses the paged attention: {_first_line(error)}") from error


def decoder_layers(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """Find the decoder layers: the list of that length.

    Raises:
        ValueError: There is none.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {num_layers} decoder layers")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
