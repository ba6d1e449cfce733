"""The spec of a VerificationPolicy: how the budget of a service is to be planned."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dspark_operator.spec.base import Name, ObjectName, Part, rules

_FIXED = "draftTokens belongs to mode Fixed, and mode Fixed needs it"


class PolicyRules(Part):
    """When the planner trims, stops drafting, and changes a table."""

    activation_sessions: int = Field(default=2, ge=1)
    """Below this many sessions all drafts are verified."""
    trim_gain: float = Field(default=0.02, ge=0, le=1)
    """Trim only for at least this share more throughput than verifying all."""
    off_gain: float = Field(default=0.05, ge=0, le=1)
    """Go without drafts only for at least this share more throughput."""
    change_gain: float = Field(default=0.03, ge=0, le=1)
    """Keep the previous entry unless the new one gives this share more throughput."""


class PolicySpec(Part):
    """What an operator of the service asks of the verification budget."""

    model_config = ConfigDict(
        json_schema_extra=rules(("(self.mode == 'Fixed') == has(self.draftTokens)", _FIXED))
    )
    service_name: ObjectName
    """DSparkService in the same namespace."""
    pool_name: Name | None = None
    """Verifier pool; absent: all of them."""
    mode: Literal["Auto", "Fixed", "Off"] = "Auto"
    """Auto: planned from curves and acceptance.  Fixed: ``draftTokens``.  Off: no drafting."""
    draft_tokens: int | None = Field(default=None, ge=0, le=65536)
    """Draft tokens that a step verifies."""
    rules: PolicyRules = PolicyRules()
    """Used with mode Auto."""

    @model_validator(mode="after")
    def _fixed_has_tokens(self) -> Self:
        if (self.mode == "Fixed") != (self.draft_tokens is not None):
            raise ValueError(_FIXED)
        return self
