"""Certificates for tests: made in a folder, replaced on request."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspark.config.tls import HttpsSettings, TlsSettings
from dspark.rpc.authority import Authority, Pair

NAME = "dspark.internal"


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def an_authority(name: str = "ours") -> Authority:
    return Authority.new(name, days=1, now=now())


@dataclass
class Pki:
    """A process's files, signed by an authority."""

    folder: Path
    authority: Authority = field(default_factory=an_authority)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.trust(self.authority)
        self.renew()

    def trust(self, *authorities: Authority) -> None:
        """Replace the file of authorities."""
        pems = b"".join(each.pair.certificate for each in authorities)
        (self.folder / "authority.pem").write_bytes(pems)

    def renew(self, names: Sequence[str] = (NAME,), *, days: float = 1) -> Pair:
        """Replace certificate and key."""
        pair = self.authority.sign(names, days=days, now=now())
        self.write(pair)
        return pair

    def write(self, pair: Pair) -> None:
        (self.folder / "key.pem").write_bytes(pair.key)
        (self.folder / "certificate.pem").write_bytes(pair.certificate)

    def settings(self, **more: Any) -> TlsSettings:
        return TlsSettings(
            certificate=self.folder / "certificate.pem",
            key=self.folder / "key.pem",
            authority=self.folder / "authority.pem",
            **more,
        )

    def https(self) -> HttpsSettings:
        return HttpsSettings(
            certificate=self.folder / "certificate.pem", key=self.folder / "key.pem"
        )
