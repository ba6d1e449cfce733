"""Errors as OpenAI clients expect them: a status, and a body that names the parameter."""

import math


class ApiError(Exception):
    """What a client is told.

    Attributes:
        status: HTTP status.
        message: One sentence with the values involved.
        kind: OpenAI's error ``type``.
        param: Parameter at fault, or None.
        code: Machine-readable cause, or None.
        retry_after_s: When trying again makes sense, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


def invalid(param: str | None, message: str, *, code: str | None = None) -> ApiError:
    """Return the error for a bad value of ``param``."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, why: str = "is not supported") -> ApiError:
    """Return the error for a parameter that would otherwise be silently ignored."""
    return invalid(param, f"'{param}' {why}", code="unsupported_parameter")


def unknown_model(asked: str, served: str) -> ApiError:
    """Return the error for a model that is not served here."""
    return ApiError(
        404,
        f"The model '{asked}' does not exist; this server serves '{served}'",
        param="model",
        code="model_not_found",
    )


def context_too_long(
    param: str, *, prompt_tokens: int, max_new_tokens: int, max_context_tokens: int
) -> ApiError:
    """Return the error for a request that is longer than the model's context."""
    return invalid(
        param,
        f"This model's maximum context length is {max_context_tokens} tokens. However, you "
        f"requested {prompt_tokens + max_new_tokens} tokens ({prompt_tokens} in the prompt, "
        f"{max_new_tokens} in the completion)",
        code="context_length_exceeded",
    )


def overloaded(message: str, *, retry_after_s: float = 1.0) -> ApiError:
    """Return the error for a full queue."""
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="overloaded",
        retry_after_s=retry_after_s,
    )


def no_verifier(message: str = "No verifier is ready", *, retry_after_s: float = 2.0) -> ApiError:
    """Return the error for a fleet that cannot serve now."""
    return ApiError(
        503,
        message,
        kind="service_unavailable_error",
        code="no_verifier",
        retry_after_s=retry_after_s,
    )


def timed_out(seconds: float) -> ApiError:
    """Return the error for a request that outlived its bound."""
    return ApiError(
        504, f"The request took longer than {seconds:g} s", kind="timeout_error", code="timeout"
    )


def internal(message: str) -> ApiError:
    """Return the error for a fault of ours."""
    return ApiError(500, message, kind="api_error", code="internal_error")
