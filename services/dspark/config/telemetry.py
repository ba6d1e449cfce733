"""Settings of traces and logs."""

from typing import Literal

from pydantic import Field

from dspark.config.base import Settings


class TelemetrySettings(Settings):
    """What processes tell besides metrics.

    ``dspark up`` hands it to its processes as environment variables; those that are set already
    win, so that OpenTelemetry's own variables work as everywhere.
    """

    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+$")
    """OpenTelemetry collector (OTLP over gRPC, ``http://host:4317``) that gets traces; null: none,
    unless OTEL_EXPORTER_OTLP_ENDPOINT names one."""
    trace_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the requests that is traced, of those whose caller did not decide it."""
    log_format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line with request and session ids."""

    def environment(self) -> dict[str, str]:
        """Return it as environment variables."""
        made: dict[str, str] = {"DSPARK_LOG_FORMAT": self.log_format}
        if self.otlp_endpoint is not None:
            made |= {
                "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_endpoint,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": str(self.trace_share),
            }
        return made
