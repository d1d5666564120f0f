"""What certificates are issued, and which are believed: each other one with its exact refusal."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pki_support import (
    ALICE,
    CLUSTER,
    DAY,
    HOST,
    NOW,
    authority,
    certificate,
    contradictory,
    handmade,
    identity,
)

from vdc.model.errors import InvalidError, UnauthenticatedError, VdcError
from vdc.model.identity import Role
from vdc.security.authority import Authority
from vdc.security.certificates import (
    check_certificate,
    parse_bundle,
    parse_certificate,
    public_key_of,
    read_certificate,
)
from vdc.security.keys import key_from_pem, key_to_pem, make_request, new_key, public_bytes, read_request


def code_of(data: str | bytes, at=NOW) -> str:
    with pytest.raises(VdcError) as caught:
        check_certificate(data, (authority().certificate,), at)
    return caught.value.code


def test_an_authority_signs_and_speaks_for_nobody() -> None:
    ours = authority()
    constraints = ours.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert ours.certificate.not_valid_after_utc == NOW + timedelta(days=3650)
    assert ours.cluster == CLUSTER
    assert len(ours.fingerprint) == 64
    loaded = Authority.load(ours.pem, ours.key_pem)
    assert loaded.fingerprint == ours.fingerprint
    assert code_of(ours.pem) == "certificate-foreign"


def test_another_key_is_not_the_authority_s() -> None:
    with pytest.raises(InvalidError) as caught:
        Authority.load(authority().pem, authority(number=1).key_pem)
    assert caught.value.code == "key-mismatch"
    with pytest.raises(InvalidError) as caught:
        Authority.load(certificate(), key_to_pem(new_key()))
    assert caught.value.code == "key-mismatch"


def test_a_host_s_certificate_serves_and_calls_under_its_addresses() -> None:
    pem = authority().issue(HOST, new_key().public_key(), NOW, addresses=["10.0.0.1", "10.1.0.1"])
    found = check_certificate(pem, (authority().certificate,), NOW)
    assert found.identity == HOST
    assert found.addresses == ("10.0.0.1", "10.1.0.1", "127.0.0.1")
    assert (found.not_before, found.not_after) == (NOW - timedelta(minutes=5), NOW + 90 * DAY)
    assert found.renewal_at < NOW + 60 * DAY < found.renewal_at + timedelta(minutes=10)
    assert found.issuer == authority().key_identifier
    extensions = parse_certificate(pem).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["h1", "member.vdc.internal"]
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_a_user_s_certificate_calls_and_serves_nowhere() -> None:
    pem = authority().issue(ALICE, new_key().public_key(), NOW, addresses=["10.0.0.1"])
    extensions = parse_certificate(pem).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [ALICE.uri]
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_der_reads_like_pem_and_serials_differ() -> None:
    pem = certificate()
    der = parse_certificate(pem).public_bytes(Encoding.DER)
    assert read_certificate(der) == read_certificate(pem)
    assert len({read_certificate(certificate()).serial for _ in range(8)}) == 8


def test_a_certificate_outlives_no_authority() -> None:
    late = NOW + timedelta(days=3640)
    assert read_certificate(certificate(at=late)).not_after == authority().certificate.not_valid_after_utc


def test_times_are_judged_by_the_clock_that_is_passed_in() -> None:
    assert code_of(certificate(), NOW + 366 * DAY) == "certificate-expired"
    assert code_of(certificate(at=NOW + DAY)) == "certificate-early"
    assert code_of(certificate(), NOW + 4000 * DAY) == "certificate-foreign"  # so is its authority's
    check_certificate(certificate(at=NOW + timedelta(minutes=4)), (authority().certificate,), NOW)


def test_another_authority_s_word_counts_for_nothing() -> None:
    same_name = authority(number=1)
    assert code_of(certificate(by=same_name)) == "certificate-foreign"
    assert code_of(certificate(identity(cluster="ba9876543210"), by=authority("ba9876543210"))) == (
        "certificate-foreign"
    )
    both = (authority().certificate, same_name.certificate)
    assert check_certificate(certificate(by=same_name), both, NOW).identity == ALICE


def test_a_tampered_certificate_is_foreign() -> None:
    der = bytearray(parse_certificate(certificate()).public_bytes(Encoding.DER))
    der[der.index(b"operator")] ^= 1
    assert code_of(bytes(der)) == "certificate-foreign"


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.UniformResourceIdentifier("https://h/"),),
        (x509.UniformResourceIdentifier(ALICE.uri), x509.UniformResourceIdentifier(HOST.uri)),
        (x509.UniformResourceIdentifier("vdc://0123456789ab/nobody/alice"),),
        (x509.DNSName("h1"),),
    ],
)
def test_a_certificate_without_exactly_one_of_our_names_is_nobody_s(names) -> None:
    assert code_of(handmade(authority(), *names)) == "certificate-nameless"


def test_an_authority_that_was_smuggled_in_is_refused() -> None:
    name = x509.UniformResourceIdentifier(ALICE.uri)
    assert code_of(handmade(authority(), name, is_authority=True)) == "certificate-foreign"


@pytest.mark.parametrize(
    "data",
    ["", "x", b"\x30\x82", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "A" * 20_000],
)
def test_what_is_no_certificate_is_said_to_be_none(data) -> None:
    assert code_of(data) == "certificate-invalid"


@pytest.mark.parametrize("pem", ["", "x", "A" * 200_000])
def test_what_is_no_bundle_is_said_to_be_none(pem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_bundle(pem)
    assert caught.value.code == "certificate-invalid"


def test_a_bundle_holds_authorities_alone() -> None:
    assert len(parse_bundle(authority().pem + authority(number=1).pem)) == 2
    with pytest.raises(InvalidError) as caught:
        parse_bundle(authority().pem + certificate())
    assert caught.value.code == "certificate-invalid"


def test_what_contradicts_itself_is_refused_like_what_is_garbage() -> None:
    pem = contradictory(authority())
    assert code_of(pem) == "certificate-invalid"
    assert code_of(contradictory(authority(number=1))) == "certificate-foreign"
    for text in (pem, "\udc80"):
        with pytest.raises(InvalidError) as caught:
            parse_bundle(text)
        assert caught.value.code == "certificate-invalid"


def test_an_authority_issues_for_its_own_cluster_alone() -> None:
    with pytest.raises(InvalidError) as caught:
        certificate(identity(cluster="ba9876543210"))
    assert caught.value.code == "identity-invalid"
    with pytest.raises(InvalidError) as caught:
        certificate(identity(Role.NOBODY, "x"))
    assert caught.value.code == "identity-invalid"


# ---- requests and renewal


def test_of_a_request_its_key_alone_counts() -> None:
    key = new_key()
    pem = authority().sign(make_request(key, "root"), ALICE, NOW)
    assert check_certificate(pem, (authority().certificate,), NOW).identity == ALICE
    assert public_bytes(public_key_of(parse_certificate(pem))) == public_bytes(key.public_key())


def request_by(key, signed=True) -> str:
    subject = x509.Name([])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    if signed:
        return request.public_bytes(Encoding.PEM).decode()
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    "pem",
    [
        "", "x", "A" * 20_000,
        request_by(ec.generate_private_key(ec.SECP384R1())),
        request_by(ed25519.Ed25519PrivateKey.generate()),
        request_by(new_key(), signed=False),
    ],
    ids=["empty", "text", "long", "p384", "ed25519", "unsigned"],
)  # fmt: skip
def test_other_requests_are_refused(pem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        read_request(pem)
    assert caught.value.code == "request-invalid"


def test_renewal_keeps_who_it_is_and_the_key() -> None:
    old = authority().issue(HOST, new_key().public_key(), NOW, addresses=["10.0.0.1"])
    new = authority().renew(old, NOW + 60 * DAY)
    before, after = read_certificate(old), read_certificate(new)
    assert (after.identity, after.addresses) == (before.identity, before.addresses)
    assert after.not_after == NOW + 150 * DAY
    assert after.serial != before.serial
    assert public_key_of(parse_certificate(new)) == public_key_of(parse_certificate(old))
    assert read_certificate(authority().renew(old, NOW, addresses=["10.0.0.9"])).addresses == (
        "10.0.0.9",
        "127.0.0.1",
    )


def test_the_list_of_the_revoked_is_signed_and_names_serials() -> None:
    serial = read_certificate(certificate()).serial
    found = x509.load_pem_x509_crl(authority().revocation_list([(serial, NOW)], NOW).encode())
    assert found.is_signature_valid(authority().certificate.public_key())
    assert [f"{entry.serial_number:032x}" for entry in found] == [serial]


@pytest.mark.parametrize("pem", ["", "x", "secret-that-must-not-show"])
def test_what_is_no_key_is_not_quoted(pem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        key_from_pem(pem)
    assert caught.value.code == "key-invalid"
    assert not pem or pem == "x" or pem not in str(caught.value)


def test_no_private_key_shows_in_a_repr() -> None:
    assert "PRIVATE" not in repr(authority())
    assert "key" not in repr(authority())


def test_refusals_are_of_the_kind_that_a_server_answers_401_with() -> None:
    with pytest.raises(UnauthenticatedError):
        check_certificate(certificate(by=authority(number=1)), (authority().certificate,), NOW)
