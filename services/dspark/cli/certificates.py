"""``dspark certificates``: a private authority and a certificate of it, for ``endpoint.tls``."""

import datetime
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dspark.config.tls import TlsSettings

_AUTHORITY_DAYS = 3650.0
_HERE = ("localhost", "127.0.0.1", "::1")


def certificates(
    folder: Annotated[Path, typer.Argument(help="Where to; made if absent.")],
    name: Annotated[
        list[str] | None,
        typer.Option(help="DNS name or IP address besides this machine's; may be repeated."),
    ] = None,
    server_name: Annotated[
        str, typer.Option(help="As tls.server_name of the settings.")
    ] = TlsSettings.model_fields["server_name"].default,
    days: Annotated[float, typer.Option(min=0.001, help="How long the certificate lasts.")] = 365.0,
) -> None:
    """Make FOLDER/authority.pem, certificate.pem and key.pem, and print how to use them.

    Where FOLDER has an authority, it signs a new certificate: processes that run take it up by
    themselves. authority.key signs for everybody whom the service lets in: keep it elsewhere.
    """
    from dspark.rpc.authority import Authority, Pair  # not for --help

    now = datetime.datetime.now(datetime.UTC)
    folder.mkdir(parents=True, exist_ok=True)
    root, root_key = folder / "authority.pem", folder / "authority.key"
    if root.exists() and not root_key.exists():
        raise ValueError(
            f"{root_key}: no such file: put back the key that belongs to {root}, or name another "
            "folder for a new authority"
        )
    if root.exists():
        try:
            authority = Authority.of(Pair(certificate=root.read_bytes(), key=root_key.read_bytes()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{root}: {error}: name another folder for a new one") from None
    else:
        authority = Authority.new("dspark authority", days=_AUTHORITY_DAYS, now=now)
        _write(root_key, authority.pair.key, mode=0o600)
        _write(root, authority.pair.certificate, mode=0o644)
    pair = authority.sign([server_name, *(name or ()), *_HERE], days=days, now=now)
    _write(folder / "key.pem", pair.key, mode=0o600)
    _write(folder / "certificate.pem", pair.certificate, mode=0o644)
    where = folder.absolute()
    print(
        f"endpoint:\n  tls:\n    certificate: {where / 'certificate.pem'}\n"
        f"    key: {where / 'key.pem'}\n    authority: {where / 'authority.pem'}"
    )
    if server_name != TlsSettings.model_fields["server_name"].default:
        print(f"    server_name: {server_name}")


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Replace a file as one step, never readable to more than ``mode`` says."""
    handle, fresh = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "wb") as output:
        os.fchmod(handle, mode)
        output.write(content)
    Path(fresh).replace(file)
