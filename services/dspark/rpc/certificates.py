"""What is in the files of TLS, and what is wrong with them: read and judged before anybody uses it.

A peer only sees a connection that closes; so everything that can be told from the files is told
here, with the file's name.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from dspark.config.tls import HttpsSettings, TlsSettings

_LONGEST_CHAIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate with its chain and its key, as PEM, and until when it is valid."""

    certificate: bytes
    key: bytes
    expires: datetime.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualIdentity(Identity):
    """The same with the authority (PEM) whose certificates are taken from others."""

    authority: bytes


def read_https(settings: HttpsSettings, *, now: datetime.datetime) -> Identity:
    """Read a certificate and its key.

    Raises:
        ValueError: One line that names the file, what is wrong with it, and the way out.
    """
    chain_pem, key_pem = _read(settings.certificate), _read(settings.key)
    leaf = _certificates(chain_pem, settings.certificate)[0]
    _belongs(key_pem, settings.key, leaf, settings.certificate)
    _is_valid(leaf, settings.certificate, now)
    _is_for(leaf, settings.certificate, servers_only=True)
    return Identity(certificate=chain_pem, key=key_pem, expires=leaf.not_valid_after_utc)


def read_mutual(settings: TlsSettings, *, now: datetime.datetime) -> MutualIdentity:
    """Read a certificate, its key, and the authority.

    Raises:
        ValueError: One line that names the file, what is wrong with it, and the way out.
    """
    chain_pem, key_pem = _read(settings.certificate), _read(settings.key)
    authority_pem = _read(settings.authority)
    chain = _certificates(chain_pem, settings.certificate)
    roots = _certificates(authority_pem, settings.authority)
    _belongs(key_pem, settings.key, chain[0], settings.certificate)
    _is_valid(chain[0], settings.certificate, now)
    _is_for(chain[0], settings.certificate, servers_only=False)
    if not _leads_to(chain, roots):
        raise ValueError(
            f"{settings.certificate}: not signed by the authority in {settings.authority} "
            f"(it says {_name(chain[0].issuer)}): put that authority's certificate there, and any "
            "between the two after the first one here"
        )
    names = _dns_names(chain[0])
    wanted = settings.server_name
    if wanted is not None and not any(_covers(name, wanted) for name in names):
        raise ValueError(
            f"{settings.certificate}: not for the name {wanted}, which clients will look for (it "
            f"has {', '.join(names) or 'none'}): have it made for that name, or set tls.server_name"
        )
    return MutualIdentity(
        certificate=chain_pem,
        key=key_pem,
        expires=chain[0].not_valid_after_utc,
        authority=authority_pem,
    )


def first_certificate(file: Path) -> str:
    """Return the first certificate of a file alone, as PEM.

    Raises:
        ValueError: One line that names the file and what is wrong with it.
    """
    leaf = _certificates(_read(file), file)[0]
    return leaf.public_bytes(serialization.Encoding.PEM).decode()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{file}: no such file: name another in tls, or make one with `dspark certificates`"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{file}: {error.strerror}: let this user read it, or name another"
        ) from None


def _certificates(pem: bytes, file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError(f"{file}: no certificate in PEM (-----BEGIN CERTIFICATE-----)") from None


def _belongs(key_pem: bytes, key_file: Path, leaf: x509.Certificate, file: Path) -> None:
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except TypeError:
        raise ValueError(f"{key_file}: has a passphrase: give a key without one") from None
    except ValueError:
        raise ValueError(
            f"{key_file}: no private key in PEM (-----BEGIN PRIVATE KEY-----)"
        ) from None
    if key.public_key() != leaf.public_key():
        raise ValueError(
            f"{key_file}: not the key of the first certificate in {file}: give the two that belong "
            "together"
        )


def _is_valid(leaf: x509.Certificate, file: Path, now: datetime.datetime) -> None:
    if now > leaf.not_valid_after_utc:
        raise ValueError(
            f"{file}: expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: replace it"
        )
    if now < leaf.not_valid_before_utc:
        raise ValueError(
            f"{file}: not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: wait, or "
            "set this machine's clock"
        )


def _is_for(leaf: x509.Certificate, file: Path, *, servers_only: bool) -> None:
    """Refuse a certificate that peers would refuse for what it says it is for."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # for everything
    needed = {ExtendedKeyUsageOID.SERVER_AUTH: "servers"}
    if not servers_only:
        needed[ExtendedKeyUsageOID.CLIENT_AUTH] = "clients"
    for purpose, who in needed.items():
        if purpose not in usage:
            raise ValueError(
                f"{file}: not for {who}: have it made with the extended key usages "
                f"{'serverAuth' if servers_only else 'serverAuth and clientAuth'}"
            )


def _leads_to(chain: list[x509.Certificate], roots: list[x509.Certificate]) -> bool:
    current, between = chain[0], chain[1:]
    for _ in range(_LONGEST_CHAIN):
        if current in roots or any(_issued(root, current) for root in roots):
            return True
        issuers = [each for each in between if _issued(each, current)]
        if not issuers or issuers[0] == current:
            return False
        current = issuers[0]
    return False


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _dns_names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _covers(name: str, wanted: str) -> bool:
    """Whether a name of a certificate, maybe with a star as its first label, is the one wanted."""
    name, wanted = name.lower(), wanted.lower()
    star, _, rest = name.partition(".")
    return name == wanted or (star == "*" and wanted.partition(".")[2] == rest and "." in rest)


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "nobody"
