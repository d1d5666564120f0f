"""Credentials of one lockstep: who believes whom, and what is refused."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from vdc.model.errors import InvalidError
from vdc.security.keys import MAX_PEM_BYTES
from vdc.security.pairs import KeyAndRequest, PairAuthority, Side, qemu_files

UID = "6f1f2a8e-5a5c-4a39-9d5e-0c6f1e0f7a01"


def credentials(authority: PairAuthority, side: Side) -> dict[str, str]:
    own = KeyAndRequest.make()
    return qemu_files(authority.certificate, authority.sign(own.request, side), own.key)


def context(folder: Path, files: dict[str, str], purpose: ssl.Purpose) -> ssl.SSLContext:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    end = "server" if purpose is ssl.Purpose.CLIENT_AUTH else "client"
    made = ssl.create_default_context(purpose, cafile=str(folder / "ca-cert.pem"))
    made.load_cert_chain(folder / f"{end}-cert.pem", folder / f"{end}-key.pem")
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    return made


async def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """What the server answers; in TLS 1.3 a client hears only then that its certificate was refused."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        try:
            return await reader.read(100)
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("server", "client"), [(Side.PRIMARY, Side.SECONDARY), (Side.SECONDARY, Side.PRIMARY)]
)
async def test_both_sides_believe_each_other_in_both_directions(
    tmp_path: Path, server: Side, client: Side
) -> None:
    authority = PairAuthority.create(UID, 7)
    serving = context(tmp_path / "s", credentials(authority, server), ssl.Purpose.CLIENT_AUTH)
    calling = context(tmp_path / "c", credentials(authority, client), ssl.Purpose.SERVER_AUTH)
    assert await shake_hands(serving, calling, server) == b"welcome"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await shake_hands(serving, calling, client)


async def test_another_epochs_copy_is_a_stranger(tmp_path: Path) -> None:
    ours, theirs = PairAuthority.create(UID, 7), PairAuthority.create(UID, 7)
    serving = context(tmp_path / "s", credentials(ours, Side.PRIMARY), ssl.Purpose.CLIENT_AUTH)
    files = credentials(theirs, Side.SECONDARY)
    calling = context(tmp_path / "c", files, ssl.Purpose.SERVER_AUTH)
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(serving, calling, Side.PRIMARY)
    believing = context(tmp_path / "b", {**files, "ca-cert.pem": ours.certificate}, ssl.Purpose.SERVER_AUTH)
    heard = b""
    with suppress(ssl.SSLError, ConnectionError):
        heard = await shake_hands(serving, believing, Side.PRIMARY)
    assert heard == b"", "the server must refuse it too"


def test_the_authority_survives_on_disk_and_its_key_is_its_own() -> None:
    authority = PairAuthority.create(UID, 7)
    again = PairAuthority.from_pem(authority.to_pem())
    assert again.certificate == authority.certificate
    own = KeyAndRequest.make()
    signed = x509.load_pem_x509_certificate(again.sign(own.request, Side.PRIMARY).encode())
    signed.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))
    other = PairAuthority.create(UID, 7)
    mixed = authority.to_pem().replace(authority.certificate, other.certificate)
    for text in ("", "rubbish", authority.certificate, mixed):
        with pytest.raises(InvalidError) as caught:
            PairAuthority.from_pem(text)
        assert caught.value.code in ("certificate-invalid", "key-invalid", "key-mismatch")


def test_certificates_say_what_gnutls_looks_for() -> None:
    authority = PairAuthority.create(UID, 7)
    own = x509.load_pem_x509_certificate(authority.certificate.encode())
    assert own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    signed = authority.sign(KeyAndRequest.make().request, Side.SECONDARY)
    leaf = x509.load_pem_x509_certificate(signed.encode())
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (False, True)
    assert len(list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)) == 2
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["secondary"]


def other_curve() -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def tampered() -> str:
    good = x509.load_pem_x509_csr(KeyAndRequest.make().request.encode())
    raw = bytearray(good.public_bytes(Encoding.DER))
    raw[-1] ^= 1
    return x509.load_der_x509_csr(bytes(raw)).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    "request_pem",
    ["", "rubbish", "-----BEGIN CERTIFICATE REQUEST-----\n", " " * (MAX_PEM_BYTES + 1)],
)
def test_what_is_no_request_is_refused(request_pem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        PairAuthority.create(UID, 7).sign(request_pem, Side.SECONDARY)
    assert caught.value.code == "request-invalid"


@pytest.mark.parametrize("make", [other_curve, tampered])
def test_a_request_whose_key_is_unfit_or_not_the_askers_is_refused(make) -> None:
    with pytest.raises(InvalidError):
        PairAuthority.create(UID, 7).sign(make(), Side.SECONDARY)
