"""Which model is served, and how its cache is laid out."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dspark.config.base import Settings
from dspark.config.paced import PacedSettings


class ModelSettings(Settings):
    """The pair: target and drafter."""

    name: str = "dspark-demo"
    """Model name that clients ask for."""
    target: str = "builtin:demo/target"
    """Hugging Face folder or hub id of the target; ``builtin:`` names data of this package."""
    drafter: str | None = "builtin:demo/drafter"
    """Drafter checkpoint (DeepSpec or speculators layout); null serves without drafting."""
    page_tokens: int = Field(default=16, ge=1, le=256)
    """Tokens in one KV page; the same in prefill and verifier pools."""
    rows_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Element type of projected context rows, kept and on the wire."""
    device: str = "cpu"
    """Torch device of the engines."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one engine."""
    min_accepted_length: float | None = Field(default=1.2, ge=1.0)
    """Self-check at load: the pair must reach this mean accepted length on a short greedy text;
    null does not measure (each verifier then starts without loading the drafter once)."""
    curves: str | None = None
    """Folder where profiled curves are kept, so that a replica that starts again on such a machine
    need not measure again; null measures at every start."""
    paced: PacedSettings | None = None
    """Sleep recorded step times instead of computing, with tokens from an integer fake: for trials
    of scheduling at another device's ratios, on any machine. Never a measure of speed."""

    @model_validator(mode="after")
    def _paced_says_so(self) -> Self:
        if self.paced is not None and not self.name.startswith("paced"):
            raise ValueError(
                f"name {self.name!r} must begin with 'paced' where paced is set: "
                "its figures are never to be taken for a model's speed"
            )
        return self
