"""Digests that the handshake compares: cheap, from configurations and file headers."""

import hashlib
import json
import struct
from pathlib import Path

_HEADER_LIMIT_BYTES = 100_000_000
_VOLATILE = ("_name_or_path", "transformers_version")


def target_digest(folder: str | Path) -> str:
    """Digest of a model folder: 32 hexadecimal characters.

    Covers the configuration and, of each weights file, its size, its safetensors header (every
    tensor's name, type and shape) and a sample of its bytes; the weights are not read through.

    Raises:
        ValueError: No configuration or no safetensors file.
    """
    path = Path(folder)
    config_file = path / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{config_file} is missing: is {path} a model folder?")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    kept = {name: value for name, value in config.items() if name not in _VOLATILE}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{path} has no *.safetensors file: is the download complete?")
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            header_bytes = struct.unpack("<Q", stream.read(8))[0]
            if header_bytes > _HEADER_LIMIT_BYTES or header_bytes > size:
                raise ValueError(f"{file} is not a safetensors file: is the download complete?")
            digest.update(stream.read(header_bytes))
            for share in range(8):
                stream.seek(8 + header_bytes + (size - 8 - header_bytes) * share // 8)
                digest.update(stream.read(4096))
    return digest.hexdigest()[:32]
