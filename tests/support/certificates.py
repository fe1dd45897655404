"""A certificate authority for one test, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def authority(directory: Path, name: str = "ca") -> tuple[Path, Path]:
    """Return the certificate and the key of a new authority."""
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN=test {name}", "-keyout", str(key), "-out", str(certificate),
        "-addext", "keyUsage=critical,keyCertSign", "-addext", "basicConstraints=critical,CA:TRUE",
    )  # fmt: skip
    return certificate, key


def certificate(directory: Path, ca: tuple[Path, Path], host: str = "localhost") -> tuple[Path, Path, Path]:
    """Return the certificate, the key and the authority's certificate for a server named `host`."""
    request, key, signed = directory / "server.csr", directory / "server.key", directory / "server.crt"
    _openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}",
        "-keyout", str(key), "-out", str(request),
    )  # fmt: skip
    extension = directory / "server.ext"
    kind = "IP" if host.replace(".", "").isdecimal() else "DNS"
    extension.write_text(f"subjectAltName={kind}:{host}\nextendedKeyUsage=serverAuth\n")
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(ca[0]), "-CAkey", str(ca[1]), "-CAcreateserial", "-days", "2",
        "-extfile", str(extension), "-out", str(signed),
    )  # fmt: skip
    return signed, key, ca[0]


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
