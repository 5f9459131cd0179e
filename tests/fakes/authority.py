"""A certificate authority of the tests' own, by the program openssl: Python cannot make certificates."""

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
# Python 3.13 verifies as strictly as RFC 5280 asks: without these extensions it refuses.
_CONFIG = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Authority:
    """Signs certificates. `bundle` is what $SSL_CERT_FILE names for those who trust it."""

    def __init__(self, folder: Path) -> None:
        need_openssl()
        self._folder = folder
        self._config = folder / "openssl.cnf"
        self._config.write_text(_CONFIG)
        self.bundle = folder / "authority.pem"
        _openssl(
            folder, "req", "-x509", *_KEY, "-config", self._config, "-extensions", "authority", "-days", "2",
            "-subj", "/CN=Authority of a test", "-keyout", "authority.key", "-out", self.bundle,
        )  # fmt: skip

    def server(self, *names: str) -> ssl.SSLContext:
        """The TLS of a server with a certificate for `names`, each written DNS:example.com or IP:127.0.0.1."""
        extensions = self._folder / "server.ext"
        extensions.write_text(f"{_CONFIG.partition('[server]')[2]}subjectAltName = {', '.join(names)}\n")
        _openssl(
            self._folder, "req", "-new", *_KEY, "-config", self._config, "-subj", "/CN=Server of a test",
            "-keyout", "server.key", "-out", "server.csr",
        )  # fmt: skip
        _openssl(
            self._folder, "x509", "-req", "-in", "server.csr", "-CA", self.bundle, "-CAkey", "authority.key",
            "-set_serial", "1", "-days", "1", "-extfile", extensions, "-out", "server.pem",
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        return context


def need_openssl() -> None:
    """Skip, visibly, where there is no openssl; under CI=true that is a failure."""
    if shutil.which("openssl") is None:
        missing = "the program openssl is missing: TLS cannot be tested"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


def _openssl(folder: Path, *arguments: str | Path) -> None:
    subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True, timeout=30)
