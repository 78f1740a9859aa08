"""TLS: the certificate of the server, which is read again when its files change."""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loramux_server.errors import CannotStart
from loramux_server.settings.schema import Settings

POLL_SECONDS = 5.0
logger = logging.getLogger("loramux.tls")


class InvalidCertificate(CannotStart):
    """The files of the certificate can't be used; the message names them and says why."""


@dataclass(frozen=True)
class CertificateFiles:
    """The files of a certificate with its chain, and of its key; both in PEM format, the key without a password."""

    certificate: Path
    key: Path

    def load(self) -> ssl.SSLContext:
        """Return a new context with the certificate.

        Raises:
            InvalidCertificate: a file can't be read, or they do not belong together.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_refuse_password)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise InvalidCertificate(
                f"the TLS certificate {self.certificate} with the key {self.key} can't be used ({reason}): "
                "set LORAMUX_SSL_CERTFILE and LORAMUX_SSL_KEYFILE to a certificate and its key in PEM format"
            ) from error
        return context

    def version(self) -> tuple[bytes, ...]:
        """Return a value that changes with the files; they are small, and a time stamp may stay the same."""
        return tuple(hashlib.sha256(path.read_bytes()).digest() for path in (self.certificate, self.key))


def open_tls(settings: Settings) -> "ReloadingTls | None":
    """Return the TLS of the settings, None for plain HTTP.

    Raises:
        InvalidCertificate: the certificate can't be used.
    """
    if settings.ssl_certfile is None:
        return None
    return ReloadingTls(CertificateFiles(settings.ssl_certfile, settings.ssl_keyfile or settings.ssl_certfile))


class ReloadingTls:
    """The context of a listening socket, which gives each new connection the newest certificate.

    The certificate is replaced as a whole: new files that do not belong together leave the old certificate in use.
    """

    def __init__(self, files: CertificateFiles, poll_seconds: float = POLL_SECONDS) -> None:
        self._files, self._poll_seconds = files, poll_seconds
        self.context, self._current = files.load(), files.load()
        self._version = files.version()
        self.context.sni_callback = self._use_current

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Look at the files every few seconds while the context lasts."""
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Use the certificate of the files if they have changed and are valid; otherwise log why not."""
        try:
            version = self._files.version()
            if version == self._version:
                return
            self._version = version  # also if they are invalid, which is logged once
            self._current = self._files.load()
        except (InvalidCertificate, OSError) as error:
            logger.error("the TLS certificate is still the old one: %s", error)  # noqa: TRY400 - one line each
        else:
            logger.warning("the TLS certificate was read again")

    def _use_current(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def _refuse_password() -> str:
    """Refuse a key with a password, for which OpenSSL would ask on the terminal."""
    raise ValueError("the key has a password")
