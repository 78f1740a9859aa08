"""TLS on a real socket: the newest valid certificate, for every client."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loramux_server.lifecycle import Lifecycle, bind
from loramux_server.settings import Settings
from loramux_server.transport.limits import ConnectionLimits
from loramux_server.transport.tls import CertificateFiles, InvalidCertificate, ReloadingTls, open_tls
from tests.helpers.asgi import answering
from tests.helpers.certificates import write_certificate


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return CertificateFiles(tmp_path / "cert.pem", tmp_path / "key.pem")


def renew(files: CertificateFiles) -> bytes:
    return write_certificate(files.certificate, files.key)


@pytest.fixture
async def served(files: CertificateFiles) -> AsyncIterator[tuple[ReloadingTls, int, bytes]]:
    first = renew(files)
    tls, listener, started = ReloadingTls(files), bind("127.0.0.1", 0), asyncio.Event()
    limits = ConnectionLimits()
    life = Lifecycle(answering(200), listener, lambda: False, lambda: None, 0, limits, tls, handles_signals=False)
    living = asyncio.create_task(life.run(started.set))
    await started.wait()
    yield tls, listener.getsockname()[1], first
    life.stop()
    await living


async def presented(port: int, name: str | None = "localhost") -> bytes | None:
    """Return the certificate that a new connection is given; clients without a name send no SNI."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "127.0.0.1")
    certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def test_new_connections_get_the_renewed_certificate_and_old_ones_go_on(
    served: tuple[ReloadingTls, int, bytes], files: CertificateFiles
) -> None:
    tls, port, first = served
    context = ssl.create_default_context(cadata=first)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    second = renew(files)
    tls.reload()
    assert [await presented(port, name) for name in ("localhost", "another.example", None)] == [second] * 3
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_files_that_do_not_belong_together_leave_the_old_certificate_in_use(
    served: tuple[ReloadingTls, int, bytes], files: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    tls, port, first = served
    old_key = files.key.read_bytes()
    second, new_key = renew(files), files.key.read_bytes()
    files.key.write_bytes(old_key)
    with caplog.at_level(logging.ERROR, "loramux.tls"):
        tls.reload()
        tls.reload()
    assert len(caplog.messages) == 1  # not every few seconds
    assert await presented(port) == first
    files.certificate.write_text("")
    tls.reload()
    files.certificate.unlink()
    tls.reload()
    assert await presented(port) == first
    files.certificate.write_text(ssl.DER_cert_to_PEM_cert(second))
    files.key.write_bytes(new_key)
    tls.reload()
    assert await presented(port) == second


async def test_changed_files_are_found_without_being_told(files: CertificateFiles) -> None:
    renew(files)
    tls = ReloadingTls(files, poll_seconds=0.001)
    reloaded = asyncio.Event()
    loop, reload = asyncio.get_running_loop(), tls.reload

    def observed() -> None:
        reload()
        loop.call_soon_threadsafe(reloaded.set)

    tls.reload = observed  # type: ignore[method-assign]
    async with tls.following():
        await asyncio.wait_for(reloaded.wait(), 30)


async def test_versions_before_tls_1_2_are_refused(served: tuple[ReloadingTls, int, bytes]) -> None:
    assert served[0].context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_plain_http_gets_no_answer(served: tuple[ReloadingTls, int, bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served[1])
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"HTTP" not in await reader.read()
    writer.close()


@pytest.mark.parametrize("fault", ["missing", "empty", "other key", "password"])
def test_a_certificate_that_can_not_be_used_is_refused_in_words(files: CertificateFiles, fault: str) -> None:
    write_certificate(files.certificate, files.key, b"secret" if fault == "password" else None)
    if fault == "missing":
        files.certificate.unlink()
    elif fault == "empty":
        files.certificate.write_text("")
    elif fault == "other key":
        write_certificate(files.certificate.with_name("other"), files.key)
    settings = Settings(ssl_certfile=files.certificate, ssl_keyfile=files.key)
    with pytest.raises(InvalidCertificate) as caught:
        open_tls(settings)
    assert str(files.certificate) in str(caught.value)
    assert "LORAMUX_SSL_CERTFILE" in str(caught.value)


def test_a_server_without_a_certificate_serves_plain_http() -> None:
    assert open_tls(Settings()) is None


def test_one_file_may_contain_certificate_and_key(files: CertificateFiles) -> None:
    renew(files)
    with files.certificate.open("ab") as both:
        both.write(files.key.read_bytes())
    assert open_tls(Settings(ssl_certfile=files.certificate)) is not None
