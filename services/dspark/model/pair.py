"""A pair, target and drafter: read together, checked against each other, loaded apart.

The target's side (prefill, verifier) needs the target and the drafter's projection; the
drafter's side needs the drafter only.  Both read the same `PairIdentity` from configurations
and file headers, which is what the handshake compares.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from dspark.model.checkpoint import check_trained_with, projection_id
from dspark.model.digests import target_digest
from dspark.model.drafter_config import DrafterConfig, read_drafter_config
from dspark.model.drafter_runner import BlockDrafter
from dspark.model.projection import Projection
from dspark.model.self_check import PROMPT_TOKENS, check_pair
from dspark.model.target import TargetRunner
from dspark.model.target_folder import local_folder, read_sizes
from dspark.model.tokenizer import tokenizer_digest

CHECK_TEXT = "import os\nimport sys\n\n\ndef main():\n    "
"""The self-check's prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairIdentity:
    """What two processes of one system must agree on.

    Attributes:
        target_digest: See `dspark.model.digests`.
        tokenizer_digest: See `dspark.model.tokenizer`.
        vocab_size: V.
        hidden_size: D, width of context rows.
        block_size: gamma; 0 without a drafter.
        target_layer_ids: Tapped layers.
        projection_id: Stamp of context rows; "" without a drafter.
    """

    target_digest: str
    tokenizer_digest: str
    vocab_size: int
    hidden_size: int
    block_size: int
    target_layer_ids: tuple[int, ...]
    projection_id: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A loaded pair, in one process."""

    identity: PairIdentity
    target: TargetRunner
    drafter: BlockDrafter | None


def read_pair(
    target_path: str | Path, drafter_path: str | Path | None, *, gamma: int | None = None
) -> PairIdentity:
    """Read and check a pair without loading it.

    Args:
        target_path: The target's folder.
        drafter_path: The drafter's folder; None serves without drafting.
        gamma: Expected block size; None takes the drafter's.

    Raises:
        ValueError: One line: what does not fit, and the way out.
    """
    target_folder = local_folder(target_path, what="target")
    sizes = read_sizes(target_folder)
    digest = target_digest(target_folder)
    config, stamp = None, ""
    if drafter_path is not None:
        drafter_folder = _drafter_folder(drafter_path)
        config = check_fit(target_folder, drafter_folder, gamma=gamma)
        fc, norm = _projection_tensors(drafter_folder)
        stamp = projection_id(fc, norm, digest)
    return PairIdentity(
        target_digest=digest,
        tokenizer_digest=tokenizer_digest(target_folder),
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        block_size=config.gamma if config else 0,
        target_layer_ids=config.target_layer_ids if config else (),
        projection_id=stamp,
    )


def check_fit(
    target_path: str | Path, drafter_path: str | Path, *, gamma: int | None = None
) -> DrafterConfig:
    """Check that a drafter belongs to a target; of the target no weights are read.

    Args:
        target_path: The target's folder; configuration and tokenizer are enough.
        drafter_path: The drafter's folder.
        gamma: Expected block size; None takes the drafter's.

    Returns:
        The drafter's configuration.

    Raises:
        ValueError: One line: what does not fit, and the way out.
    """
    target_folder = local_folder(target_path, what="target")
    drafter_folder = _drafter_folder(drafter_path)
    sizes = read_sizes(target_folder)
    config = _checked_config(drafter_folder, target_folder, gamma)
    config.require_target(
        hidden_size=sizes.hidden_size,
        vocab_size=sizes.vocab_size,
        num_layers=sizes.num_layers,
    )
    check_trained_with(config, drafter_folder)
    return config


def load_target(
    target_path: str | Path,
    drafter_path: str | Path | None,
    *,
    num_pages: int,
    page_tokens: int = 16,
    rows_dtype: str = "float16",
    device: str = "cpu",
    max_batch_tokens: int = 512,
) -> tuple[PairIdentity, TargetRunner]:
    """Load the target's side of a pair: `TargetRunner.load` with the drafter's projection."""
    identity = read_pair(target_path, drafter_path)
    projection = None
    if drafter_path is not None:
        projection = read_projection(drafter_path, identity)
    runner = TargetRunner.load(
        target_path,
        num_pages=num_pages,
        page_tokens=page_tokens,
        tap_layers=identity.target_layer_ids,
        projection=projection,
        rows_dtype=rows_dtype,
        device=device,
        # The self-check runs its whole prompt in one pass.
        max_batch_tokens=max(max_batch_tokens, PROMPT_TOKENS),
    )
    return identity, runner


def read_projection(drafter_path: str | Path, identity: PairIdentity) -> Projection:
    """Read the part of a drafter that runs beside the target.

    Raises:
        ValueError: The folder is missing or is no DSpark drafter.
    """
    folder = _drafter_folder(drafter_path)
    fc, norm = _projection_tensors(folder)
    return Projection(
        fc=fc,
        hidden_norm=norm,
        eps=read_drafter_config(folder).rms_norm_eps,
        projection_id=identity.projection_id,
    )


def load_drafter_side(
    target_path: str | Path,
    drafter_path: str | Path,
    *,
    gamma: int | None = None,
    max_sessions: int = 256,
    max_context_tokens: int = 131072,
    max_q_tokens: int = 64,
) -> tuple[PairIdentity, BlockDrafter]:
    """Load the drafter's side of a pair; of the target only headers are read."""
    identity = read_pair(target_path, drafter_path, gamma=gamma)
    folder = _drafter_folder(drafter_path)
    embedding = None
    if read_drafter_config(folder).layout == "speculators":  # may leave its embedding out
        embedding = _target_embedding(local_folder(target_path, what="target"))
    drafter = BlockDrafter.load(
        folder,
        gamma=gamma,
        target_embedding=embedding,
        max_sessions=max_sessions,
        max_context_tokens=max_context_tokens,
        max_q_tokens=max_q_tokens,
    )
    return identity, drafter


def load_pair(
    target_path: str | Path,
    drafter_path: str | Path | None,
    *,
    num_pages: int,
    page_tokens: int = 16,
    rows_dtype: str = "float16",
    max_batch_tokens: int = 512,
    min_accepted_length: float | None = None,
) -> Pair:
    """Load both sides in one process.

    Args:
        target_path: The target's folder.
        drafter_path: The drafter's folder, or None.
        num_pages: Pages of the target's pool.
        page_tokens: Tokens in a page.
        rows_dtype: Element type of context rows.
        max_batch_tokens: Most tokens in one target pass.
        min_accepted_length: Refuse the pair below this mean accepted length on a short greedy
            text; None does not measure.

    Raises:
        ValueError: One line that says what is wrong and the way out.
    """
    identity, target = load_target(
        target_path,
        drafter_path,
        num_pages=num_pages,
        page_tokens=page_tokens,
        rows_dtype=rows_dtype,
        max_batch_tokens=max_batch_tokens,
    )
    drafter = None
    if drafter_path is not None:
        _, drafter = load_drafter_side(target_path, drafter_path)
        if min_accepted_length is not None:
            check_pair(
                target,
                drafter,
                min_accepted_length=min_accepted_length,
                prompt=_check_prompt(local_folder(target_path, what="target")),
            )
    return Pair(identity=identity, target=target, drafter=drafter)


def _check_prompt(target_folder: Path) -> list[int] | None:
    """Tokens of a text that any model knows how to go on; None without a tokenizer file."""
    file = target_folder / "tokenizer.json"
    if not file.is_file():
        return None
    ids: list[int] = Tokenizer.from_file(str(file)).encode(CHECK_TEXT).ids
    return ids


def _drafter_folder(path: str | Path) -> Path:
    try:
        return local_folder(path, what="drafter")
    except ValueError as error:
        raise ValueError(f"{error}; or set drafter to null to serve without drafting") from error


def _checked_config(drafter_path: Path, target_path: Path, gamma: int | None) -> DrafterConfig:
    config = read_drafter_config(drafter_path)
    if gamma is not None:
        config.require_gamma(gamma)
    theirs = tokenizer_digest(drafter_path)
    ours = tokenizer_digest(target_path)
    if theirs and ours and theirs != ours:
        raise ValueError(
            f"tokenizer mismatch: the drafter in {drafter_path} carries tokenizer {theirs[:12]}, "
            f"the target {ours[:12]}: load the drafter that belongs to this target"
        )
    return config


def _projection_tensors(drafter_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The stored ``fc.weight`` and ``hidden_norm.weight``, in float32."""
    found = _stored(drafter_path, ("fc.weight", "hidden_norm.weight"))
    for name in ("fc.weight", "hidden_norm.weight"):
        if name not in found:
            raise ValueError(f"{drafter_path} has no tensor {name}: is it a DSpark drafter?")
    return found["fc.weight"].float(), found["hidden_norm.weight"].float()


def _target_embedding(target_path: Path) -> torch.Tensor | None:
    """The target's embedding, for drafters that leave it out; None where it is not found."""
    found = _stored(target_path, ("model.embed_tokens.weight",))
    return found.get("model.embed_tokens.weight")


def _stored(folder: Path, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        where = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        files = sorted({folder / where[name] for name in names if name in where})
    for file in files:
        with safe_open(str(file), framework="pt") as tensors:
            present = set(tensors.keys())
            found.update({n: tensors.get_tensor(n) for n in names if n in present})
    return found
