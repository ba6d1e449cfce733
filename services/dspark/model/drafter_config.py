"""What a drafter checkpoint's config.json says, checked before any weight is read.

Two layouts are understood: DeepSpec (the target's config plus the drafter's keys, flat) and
speculators (nested ``transformer_layer_config``). Every refusal names the value and a way out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

HeadType = Literal["none", "vanilla", "gated", "rnn"]
Layout = Literal["deepspec", "speculators"]

_HEAD_TYPES = ("none", "vanilla", "gated", "rnn")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterConfig:
    """Shape of a DSpark drafter (Qwen3 family).

    Attributes:
        vocab_size: V, the target's vocabulary.
        hidden_size: D, shared with the target.
        intermediate_size: Width of the gated MLP.
        num_heads: H, query heads.
        num_kv_heads: Key/value heads; divides ``num_heads``.
        head_dim: K, width of a head.
        num_layers: Draft layers.
        num_target_layers: Layers of the target it was trained on.
        target_layer_ids: Tapped layers in the order of concatenation; id l is the output of layer
            l (Hugging Face ``hidden_states[l + 1]``), -1 the embedding output.
        gamma: Draft tokens per block (``block_size``).
        mask_token_id: Token of the gamma - 1 slots after the anchor.
        markov_rank: Rank of the sequential head; 0 means none.
        markov_head_type: Kind of the sequential head; "none" exactly when ``markov_rank`` is 0.
        enable_confidence_head: Whether confidences are predicted.
        confidence_head_with_markov: Whether the confidence head sees the previous token's W1 row.
        rms_norm_eps: Epsilon of every RMSNorm.
        rope_theta: Base of the rotary frequencies.
        max_positions: Longest supported sequence.
        num_anchors: Anchors per sequence in training; of no use when serving.
        draft_vocab_size: Rows of lm_head and markov_w2; below V only in the speculators layout.
        layout: Where the configuration came from.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    num_target_layers: int
    target_layer_ids: tuple[int, ...]
    gamma: int
    mask_token_id: int
    markov_rank: int = 0
    markov_head_type: HeadType = "none"
    enable_confidence_head: bool = True
    confidence_head_with_markov: bool = True
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_positions: int = 40960
    num_anchors: int = 512
    draft_vocab_size: int = 0
    layout: Layout = "deepspec"

    def __post_init__(self) -> None:
        if self.draft_vocab_size == 0:
            object.__setattr__(self, "draft_vocab_size", self.vocab_size)
        if self.gamma < 1:
            raise ValueError(f"block_size {self.gamma} is below 1: not a block drafter")
        if not self.target_layer_ids:
            raise ValueError("target_layer_ids is empty: name at least one target layer to tap")
        last = self.num_target_layers - 1
        for layer in self.target_layer_ids:
            if layer == last:
                raise ValueError(
                    f"target_layer_ids {list(self.target_layer_ids)} taps layer {layer}, the last "
                    f"of {self.num_target_layers}: the final layer may not be tapped; use ids "
                    f"-1..{last - 1}"
                )
            if not -1 <= layer < last:
                raise ValueError(
                    f"target layer id {layer} is outside -1..{last - 1} for a target of "
                    f"{self.num_target_layers} layers: is this drafter for another target?"
                )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_heads} is no multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}"
            )
        if self.markov_head_type not in _HEAD_TYPES:
            raise ValueError(
                f"markov_head_type {self.markov_head_type!r} is unknown: expected one of "
                f"{', '.join(_HEAD_TYPES)}"
            )
        if (self.markov_head_type == "none") != (self.markov_rank == 0):
            raise ValueError(
                f"markov_head_type {self.markov_head_type!r} does not fit markov_rank "
                f"{self.markov_rank}: rank 0 means no head"
            )

    @property
    def feature_size(self) -> int:
        """Width of one raw feature row: m * D."""
        return len(self.target_layer_ids) * self.hidden_size

    def require_gamma(self, gamma: int) -> None:
        """Refuse a drafter whose block is not the expected one.

        Raises:
            ValueError: If ``gamma`` differs from the checkpoint's.
        """
        if gamma != self.gamma:
            raise ValueError(
                f"gamma {gamma} is configured but the drafter was trained with block_size "
                f"{self.gamma}: set gamma to {self.gamma} or choose another drafter"
            )

    def require_target(self, *, hidden_size: int, vocab_size: int, num_layers: int) -> None:
        """Refuse a target that this drafter was not trained on.

        Raises:
            ValueError: Naming both values of the first difference.
        """
        for name, mine, its in (
            ("hidden_size", self.hidden_size, hidden_size),
            ("vocab_size", self.vocab_size, vocab_size),
            ("number of layers", self.num_target_layers, num_layers),
        ):
            if mine != its:
                raise ValueError(
                    f"the drafter expects a target with {name} {mine}, this target has {its}: "
                    "load the drafter that belongs to this target"
                )


def read_drafter_config(folder: Path) -> DrafterConfig:
    """Read and check the config.json of a drafter folder.

    Raises:
        ValueError: If the file is missing, is no JSON object, or describes something unsupported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: point the drafter at a checkpoint folder")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds no JSON object")
    return parse_drafter_config(raw)


def parse_drafter_config(raw: Mapping[str, object]) -> DrafterConfig:
    """Parse either layout.

    Raises:
        ValueError: Naming the key that is missing or wrong.
    """
    if "speculators_model_type" in raw or "transformer_layer_config" in raw:
        return _parse_speculators(raw)
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or "Qwen3DSparkModel" not in architectures:
        raise ValueError(
            f"architectures {architectures!r} is not ['Qwen3DSparkModel']: this folder holds no "
            "DSpark drafter of the Qwen3 family"
        )
    return _build(raw, raw, "target_layer_ids", 0, "deepspec")


def _parse_speculators(raw: Mapping[str, object]) -> DrafterConfig:
    kind = raw.get("speculators_model_type")
    if kind != "dspark":
        raise ValueError(f"speculators_model_type {kind!r} is not supported: expected 'dspark'")
    if raw.get("sample_from_anchor") is not True:
        raise ValueError(
            f"sample_from_anchor is {raw.get('sample_from_anchor', 'absent')!r}: this may be the "
            "older layout of 1 + N inputs; convert the checkpoint to the anchor-first layout and "
            "set sample_from_anchor to true"
        )
    shape = raw.get("transformer_layer_config")
    if not isinstance(shape, Mapping):
        raise ValueError("transformer_layer_config is missing from the speculators config")
    return _build(raw, shape, "aux_hidden_state_layer_ids", 1, "speculators")


def _build(
    raw: Mapping[str, object],
    shape: Mapping[str, object],
    ids_key: str,
    ids_shift: int,
    layout: Layout,
) -> DrafterConfig:
    ids = raw.get(ids_key)
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise ValueError(f"{ids_key} is {ids!r}: expected a list of layer ids")
    if shape.get("attention_bias"):
        raise ValueError("attention_bias true is not supported: Qwen3 drafters have none")
    rank = _int(raw, "markov_rank", 0)
    head = str(raw.get("markov_head_type", "vanilla")) if rank else "none"
    if head not in _HEAD_TYPES:
        raise ValueError(
            f"markov_head_type {head!r} is unknown: expected one of {', '.join(_HEAD_TYPES)}"
        )
    hidden, heads = _int(shape, "hidden_size"), _int(shape, "num_attention_heads")
    vocab = _int(shape, "vocab_size")
    least = max([0, *ids]) + 2
    num_target = _int(raw, "num_target_layers", _int(shape, "num_target_layers", least))
    return DrafterConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=_int(shape, "intermediate_size"),
        num_heads=heads,
        num_kv_heads=_int(shape, "num_key_value_heads", heads),
        head_dim=_int(shape, "head_dim", hidden // heads),
        num_layers=_int(shape, "num_hidden_layers"),
        num_target_layers=num_target,
        target_layer_ids=tuple(i - ids_shift for i in ids),
        gamma=_int(raw, "block_size"),
        mask_token_id=_int(raw, "mask_token_id"),
        markov_rank=rank,
        markov_head_type=cast(HeadType, head),
        enable_confidence_head=bool(raw.get("enable_confidence_head", True)),
        confidence_head_with_markov=bool(raw.get("confidence_head_with_markov", rank > 0)),
        rms_norm_eps=_float(shape, "rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(shape),
        max_positions=_int(shape, "max_position_embeddings", 40960),
        num_anchors=_int(raw, "num_anchors", 512),
        draft_vocab_size=_int(raw, "draft_vocab_size", vocab),
        layout=layout,
    )


def _rope_theta(shape: Mapping[str, object]) -> float:
    parameters = shape.get("rope_parameters") or shape.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise ValueError(f"rope_parameters is {parameters!r}: expected an object")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rope type {kind!r} is not supported: only 'default' is")
    return _float(parameters, "rope_theta", _float(shape, "rope_theta", 1e6))


def _int(raw: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = raw.get(key, default)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} is {value!r} in config.json: expected an integer")
    return value


def _float(raw: Mapping[str, object], key: str, default: float) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r} in config.json: expected a number")
    return float(value)


def drafter_config_json(
    config: DrafterConfig, target_config: Mapping[str, object]
) -> dict[str, object]:
    """Return the DeepSpec config.json: the target's keys, overlaid with the drafter's."""
    return {
        **target_config,
        "architectures": ["Qwen3DSparkModel"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "num_hidden_layers": config.num_layers,
        "layer_types": ["full_attention"] * config.num_layers,
        "num_target_layers": config.num_target_layers,
        "target_layer_ids": list(config.target_layer_ids),
        "block_size": config.gamma,
        "mask_token_id": config.mask_token_id,
        "markov_rank": config.markov_rank,
        "markov_head_type": "vanilla" if config.markov_rank == 0 else config.markov_head_type,
        "enable_confidence_head": config.enable_confidence_head,
        "confidence_head_with_markov": config.confidence_head_with_markov,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "max_position_embeddings": config.max_positions,
        "num_anchors": config.num_anchors,
        "tie_word_embeddings": False,
    }
