"""Drafter checkpoints: names and shapes are checked on the header before any weight is read.

DeepSpec layout: flat names, read and written. speculators layout: read only; a reduced draft
vocabulary is scattered into the full one (``d2t`` holds offsets), tokens outside it get -inf.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dspark.model.drafter import DSparkDrafter
from dspark.model.drafter_config import (
    DrafterConfig,
    drafter_config_json,
    read_drafter_config,
)

_DIGEST_BYTES = 1 << 20


def expected_shapes(config: DrafterConfig) -> dict[str, tuple[int, ...]]:
    """List every tensor of a DeepSpec checkpoint with its shape; allocates nothing."""
    with torch.device("meta"):
        drafter = DSparkDrafter(config)
    return {name: tuple(tensor.shape) for name, tensor in drafter.state_dict().items()}


def stored_shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], Path]]:
    """Read names, shapes and files of a folder's tensors from the safetensors headers.

    Raises:
        ValueError: If the folder holds no safetensors file, or one that cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors file: is the download complete?")
    found: dict[str, tuple[tuple[int, ...], Path]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # not a dict: only keys() exists
                    found[name] = (tuple(tensors.get_slice(name).get_shape()), file)
        except Exception as error:  # the library raises its own untyped errors
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    return found


def check_trained_with(config: DrafterConfig, folder: Path) -> None:
    """Compare config.json with what the weights' own metadata say they were trained with.

    Weights fit any layer ids of the same number, and neighbouring layers are so alike that the
    accepted length hardly falls: nothing else would show an edited config.json.  Checkpoints
    without such metadata pass.

    Raises:
        ValueError: Naming the field and both values.
    """
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            stored = tensors.metadata() or {}
        for name, said in _trained_with(config).items():
            if stored.get(name, said) != said:
                raise ValueError(
                    f"{folder / 'config.json'}: {name} is {said}, but the weights in {file.name} "
                    f"were trained with {stored[name]}: restore the configuration"
                )


def _trained_with(config: DrafterConfig) -> dict[str, str]:
    return {
        "target_layer_ids": json.dumps(list(config.target_layer_ids)),
        "block_size": json.dumps(config.gamma),
        "mask_token_id": json.dumps(config.mask_token_id),
    }


def check_shapes(
    config: DrafterConfig, stored: Mapping[str, tuple[tuple[int, ...], Path]], folder: Path
) -> None:
    """Compare a checkpoint's tensors with what its config.json asks for.

    Raises:
        ValueError: Naming the first tensor that is missing, of another shape, or left over.
    """
    expected = expected_shapes(config)
    optional: set[str] = set()
    extra: set[str] = set()
    if config.layout == "speculators":
        optional = {"embed_tokens.weight"}
        extra = {"d2t", "t2d", "verifier_lm_head.weight", "verifier_norm.weight"}
        if config.draft_vocab_size != config.vocab_size and "d2t" not in stored:
            raise ValueError(
                f"{folder}: draft_vocab_size {config.draft_vocab_size} is below the vocabulary "
                f"of {config.vocab_size} but the tensor d2t is missing"
            )
    for name, shape in expected.items():
        if name not in stored:
            if name in optional:
                continue
            raise ValueError(
                f"{folder}: tensor {name} {list(shape)} is missing; config.json asks for "
                f"{config.num_layers} draft layers, a {config.markov_head_type} head and "
                f"{'a' if config.enable_confidence_head else 'no'} confidence head"
            )
        if stored[name][0] != shape:
            raise ValueError(
                f"{folder}: tensor {name} is {list(stored[name][0])}, config.json asks for "
                f"{list(shape)}"
            )
    for name in stored:
        if name not in expected and name not in extra:
            raise ValueError(f"{folder}: tensor {name} is unknown for this config.json")


def load_drafter(
    folder: Path,
    *,
    gamma: int | None = None,
    target_embedding: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> DSparkDrafter:
    """Load a drafter folder of either layout, in evaluation mode, frozen.

    Args:
        folder: Checkpoint folder (config.json and safetensors files).
        gamma: Expected block size; None accepts the checkpoint's.
        target_embedding: The target's embedding [V, D], for checkpoints that leave it out.
        dtype: Type of the weights in memory; the confidence head stays fp32.
        device: Where the weights go.

    Raises:
        ValueError: One line that names what is wrong and the way out.
    """
    config = read_drafter_config(folder)
    if gamma is not None:
        config.require_gamma(gamma)
    stored = stored_shapes(folder)
    check_shapes(config, stored, folder)
    tensors: dict[str, Tensor] = {}
    for file in sorted({file for _, file in stored.values()}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a dict: only keys() exists
                tensors[name] = opened.get_tensor(name)
    outside: Tensor | None = None
    if config.layout == "speculators":
        config, tensors, outside = _to_deepspec(config, tensors, target_embedding, folder)
    with torch.device("meta"):
        drafter = DSparkDrafter(config)
    drafter = drafter.to_empty(device=device).to(dtype)
    if config.enable_confidence_head:
        drafter.confidence_head.float()
    drafter.load_state_dict(tensors)
    drafter.outside = None if outside is None else outside.to(device)
    return drafter.eval().requires_grad_(False)


def _to_deepspec(
    config: DrafterConfig,
    tensors: dict[str, Tensor],
    target_embedding: Tensor | None,
    folder: Path,
) -> tuple[DrafterConfig, dict[str, Tensor], Tensor | None]:
    if "embed_tokens.weight" not in tensors:
        wanted = (config.vocab_size, config.hidden_size)
        if target_embedding is None or tuple(target_embedding.shape) != wanted:
            raise ValueError(
                f"{folder} has no embed_tokens.weight: pass the target's embedding {list(wanted)}"
            )
        tensors["embed_tokens.weight"] = target_embedding
    d2t = tensors.pop("d2t", None)
    for name in ("t2d", "verifier_lm_head.weight", "verifier_norm.weight"):
        tensors.pop(name, None)
    if config.draft_vocab_size == config.vocab_size:
        return config, tensors, None
    assert d2t is not None
    rows = torch.arange(config.draft_vocab_size) + d2t.long()
    if int(rows.min()) < 0 or int(rows.max()) >= config.vocab_size:
        raise ValueError(f"{folder}: d2t points outside the vocabulary of {config.vocab_size}")
    outside = torch.ones(config.vocab_size, dtype=torch.bool)
    outside[rows] = False
    for name in ("lm_head.weight", "markov_head.markov_w2.weight"):
        if name in tensors:
            small = tensors[name]
            full = small.new_zeros(config.vocab_size, small.shape[1])
            full[rows] = small
            tensors[name] = full
    return replace(config, draft_vocab_size=config.vocab_size), tensors, outside


def save_drafter(
    folder: Path,
    drafter: DSparkDrafter,
    target_config: Mapping[str, object],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a drafter in the DeepSpec layout; the confidence head is kept in fp32.

    Args:
        folder: Created when absent; config.json and model.safetensors are replaced.
        drafter: What to save.
        target_config: The target's config.json as read; its keys are carried along.
        dtype: Type of the other weights on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in drafter.state_dict().items():
        kept = torch.float32 if name.startswith("confidence_head.") else dtype
        tensors[name] = tensor.detach().to("cpu", kept).contiguous().clone()
    part = folder / "model.safetensors.part"
    save_file(tensors, str(part), metadata={"format": "pt", **_trained_with(drafter.config)})
    part.replace(folder / "model.safetensors")
    config = drafter_config_json(drafter.config, target_config)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def projection_id(fc: Tensor, hidden_norm: Tensor, target_revision: str) -> str:
    """Name the rows that a projection makes: digest of fc, hidden_norm and the target revision.

    Computed over fp32 values, so the id does not depend on the type the weights are held in, as
    long as that type represents the stored values exactly.

    Args:
        fc: Weight of ``fc`` [D, m * D].
        hidden_norm: Weight of ``hidden_norm`` [D].
        target_revision: Name of the target's weights, such as ``folder_revision``.

    Returns:
        32 hexadecimal characters.
    """
    digest = hashlib.sha256()
    for tensor in (fc, hidden_norm):
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(repr(tuple(values.shape)).encode())
        digest.update(values.numpy().tobytes())
    digest.update(target_revision.encode())
    return digest.hexdigest()[:32]


def folder_revision(folder: Path) -> str:
    """Name a checkpoint folder by its config, and the size and both ends of every weight file.

    Returns:
        16 hexadecimal characters.

    Raises:
        ValueError: If the folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors file: is the download complete?")
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as data:
            digest.update(data.read(_DIGEST_BYTES))
            data.seek(max(0, size - _DIGEST_BYTES))
            digest.update(data.read(_DIGEST_BYTES))
    return digest.hexdigest()[:16]
