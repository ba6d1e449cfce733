"""Settings of a vLLM engine that is drafted for: the ``dspark`` part of ``--additional-config``."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dspark.config.base import Settings
from dspark.config.tls import TlsSettings
from dspark.config.verifier import DraftingSettings


class VllmSettings(Settings):
    """One vLLM engine and its drafters; either ``drafters`` or ``controller`` is given."""

    drafter: str
    """Drafter checkpoint, folder or hub id: ``fc`` and ``hidden_norm`` run beside the target."""
    drafters: tuple[str, ...] = ()
    """Addresses (``host:port``) of drafters, without a controller."""
    controller: str | None = None
    """Address of a controller that knows the drafters and broadcasts budgets."""
    tls: TlsSettings | None = None
    """Mutual TLS with drafters and controller; null: plaintext."""
    pool: str = "verifier"
    """Pool whose budgets are followed, where there is a controller."""
    name: str | None = None
    """Model name that the drafters were started with; null: the name that vLLM serves."""
    rows_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Element type of context rows, as the drafters have it."""
    curve: Path | None = None
    """File with this engine's step curve, in the form of ``dspark profile --json``: draft lengths
    then follow Algorithm 1 wherever there is no budget. null verifies all drafts."""
    line: Path | None = None
    """Unix socket of the pool's replica that is told of each step; null where vLLM is no pool. The
    curve and the budgets then wait for the replica's word."""
    drafting: DraftingSettings = Field(default_factory=DraftingSettings)
    """Deadlines and bounds, as in a verifier."""

    @model_validator(mode="after")
    def _drafters_are_found_in_one_way(self) -> Self:
        if bool(self.drafters) == (self.controller is not None):
            raise ValueError(
                "either drafters (a list of host:port) or controller (host:port) must be given, "
                f"and {'both are' if self.drafters else 'neither is'}"
            )
        return self
