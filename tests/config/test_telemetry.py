import pytest

from dspark.config.telemetry import TelemetrySettings


def test_nothing_is_traced_unless_a_collector_is_named() -> None:
    assert TelemetrySettings().environment() == {"DSPARK_LOG_FORMAT": "text"}


def test_settings_become_opentelemetrys_own_variables() -> None:
    settings = TelemetrySettings(
        otlp_endpoint="http://collector:4317", trace_share=0.1, log_format="json"
    )
    assert settings.environment() == {
        "DSPARK_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    }


@pytest.mark.parametrize("wrong", ["collector:4317", "grpc://collector:4317", "http://a b"])
def test_a_collector_is_a_url(wrong: str) -> None:
    with pytest.raises(ValueError, match="otlp_endpoint"):
        TelemetrySettings(otlp_endpoint=wrong)
