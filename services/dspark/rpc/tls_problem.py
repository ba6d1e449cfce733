"""Why a connection did not come about, where TLS is the reason: in words, with the way out."""

from dspark.config.tls import TlsSettings


def tls_problem(details: str, tls: TlsSettings | None) -> str | None:
    """Return what a failed call's details mean, or None where they say nothing of TLS.

    Args:
        details: Those of an UNAVAILABLE status, in the words of gRPC's core.
        tls: Ours.
    """
    if tls is not None and "WRONG_VERSION_NUMBER" in details:
        return "it speaks no TLS: set tls there too, or nowhere"
    if tls is not None and "Hostname Verification" in details:
        name = tls.server_name or "the host of its address (tls.server_name is null)"
        return f"its certificate is not for {name}: have it made for that name"
    if tls is not None and "certificate has expired" in details:
        return "its certificate has expired: replace its file there"
    if tls is not None and "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate is not of our authority ({tls.authority})"
    if "failed to connect" in details and _closed(details):
        if tls is None:
            return "it hung up at once: does it want TLS, which is not set here (tls)?"
        return (
            f"it hung up on our certificate ({tls.certificate}): of another authority than its "
            "own, or expired?"
        )
    return None


def explained(details: str, tls: TlsSettings | None) -> str:
    """Return the details, after what they mean where TLS is the reason."""
    problem = tls_problem(details, tls)
    return details if problem is None else f"{problem} ({details})"


def _closed(details: str) -> bool:
    return any(words in details for words in ("Socket closed", "reset by peer", "Broken pipe"))
