import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from dspark.rpc.certificates import first_certificate, read_https, read_mutual
from tests.rpc.pki import NAME, Pki, an_authority, now


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "files")


def complaint(pki: Pki, **more: object) -> str:
    with pytest.raises(ValueError, match=r"\.pem: ") as caught:
        read_mutual(pki.settings(**more), now=now())
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{pki.folder}/")


def test_good_files_are_read_with_the_time_that_they_end(pki: Pki) -> None:
    identity = read_mutual(pki.settings(), now=now())
    assert identity.certificate == (pki.folder / "certificate.pem").read_bytes()
    assert identity.authority == (pki.folder / "authority.pem").read_bytes()
    assert datetime.timedelta(0) < identity.expires - now() <= datetime.timedelta(days=1)


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem", "authority.pem"])
def test_a_missing_file_is_named_with_the_way_to_make_one(pki: Pki, name: str) -> None:
    (pki.folder / name).unlink()
    assert complaint(pki).startswith(f"{name}: no such file: name another in tls, or make one")


@pytest.mark.parametrize("name", ["certificate.pem", "key.pem", "authority.pem"])
def test_a_folder_in_place_of_a_file_is_named(pki: Pki, name: str) -> None:
    (pki.folder / name).unlink()
    (pki.folder / name).mkdir()
    assert complaint(pki).startswith(f"{name}: Is a directory: let this user read it")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("certificate.pem", "no certificate in PEM"),
        ("authority.pem", "no certificate in PEM"),
        ("key.pem", "no private key in PEM"),
    ],
)
def test_what_is_not_pem_is_named(pki: Pki, name: str, words: str) -> None:
    (pki.folder / name).write_bytes(b"\x30\x82 binary")
    assert complaint(pki).startswith(f"{name}: {words}")


def test_a_key_of_another_certificate_is_named(pki: Pki) -> None:
    other = pki.authority.sign([NAME], days=1, now=now())
    (pki.folder / "key.pem").write_bytes(other.key)
    assert complaint(pki).startswith("key.pem: not the key of the first certificate in ")


def test_a_key_with_a_passphrase_is_named(pki: Pki) -> None:
    file = pki.folder / "key.pem"
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert complaint(pki) == "key.pem: has a passphrase: give a key without one"


def test_an_expired_certificate_is_named_with_its_end(pki: Pki) -> None:
    pki.renew(days=-1)
    assert complaint(pki).startswith("certificate.pem: expired at 20")


def test_a_certificate_of_tomorrow_points_at_the_clock(pki: Pki) -> None:
    with pytest.raises(ValueError, match=r"not valid before .* set this machine's clock"):
        read_mutual(pki.settings(), now=now() - datetime.timedelta(days=1))


def test_a_certificate_of_another_authority_names_both_files(pki: Pki) -> None:
    pki.trust(an_authority("theirs"))
    text = complaint(pki)
    assert text.startswith("certificate.pem: not signed by the authority in ")
    assert "CN=ours" in text


def test_of_several_authorities_one_suffices(pki: Pki) -> None:
    pki.trust(an_authority("theirs"), pki.authority)
    assert read_mutual(pki.settings(), now=now())


def test_a_certificate_for_another_name_says_which_it_has(pki: Pki) -> None:
    pki.renew(["elsewhere.internal", "10.0.0.1"])
    text = complaint(pki)
    assert "not for the name dspark.internal" in text
    assert "(it has elsewhere.internal)" in text
    assert read_mutual(pki.settings(server_name="elsewhere.internal"), now=now())
    assert read_mutual(pki.settings(server_name=None), now=now())


@pytest.mark.parametrize(
    ("held", "wanted", "good"),
    [
        ("*.dspark.svc", "a.dspark.svc", True),
        ("*.dspark.svc", "A.DSPARK.svc", True),
        ("*.dspark.svc", "a.b.dspark.svc", False),
        ("*.dspark.svc", "dspark.svc", False),
    ],
)
def test_a_star_stands_for_one_label(pki: Pki, held: str, wanted: str, good: bool) -> None:
    pki.renew([held])
    if good:
        assert read_mutual(pki.settings(server_name=wanted), now=now())
    else:
        assert "not for the name" in complaint(pki, server_name=wanted)


def for_servers_only(pki: Pki) -> None:
    """Write the pair again, for servers alone, as public authorities make them."""
    pair = pki.renew()
    leaf = x509.load_pem_x509_certificate(pair.certificate)
    signer = serialization.load_pem_private_key(pki.authority.pair.key, None)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(leaf.public_key())
        .serial_number(leaf.serial_number)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (pki.folder / "certificate.pem").write_bytes(pem)


def test_a_certificate_for_servers_alone_serves_http_and_no_more(pki: Pki) -> None:
    for_servers_only(pki)
    assert "not for clients" in complaint(pki)
    assert read_https(pki.https(), now=now())


def test_the_first_certificate_is_told_from_those_after_it(pki: Pki) -> None:
    file = pki.folder / "certificate.pem"
    first = file.read_bytes()
    file.write_bytes(first + pki.authority.pair.certificate)
    assert first_certificate(file) == first.decode()


def test_certificates_in_between_lead_to_the_authority(pki: Pki) -> None:
    between = an_authority("between")
    cross = x509.load_pem_x509_certificate(between.pair.certificate)
    signer = serialization.load_pem_private_key(pki.authority.pair.key, None)
    root = x509.load_pem_x509_certificate(pki.authority.pair.certificate)
    signed = (
        x509.CertificateBuilder()
        .subject_name(cross.subject)
        .issuer_name(root.subject)
        .public_key(cross.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(cross.not_valid_before_utc)
        .not_valid_after(cross.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    pair = between.sign([NAME], days=1, now=now())
    pki.write(pair)
    assert "not signed by" in complaint(pki)
    chain = pair.certificate + signed.public_bytes(serialization.Encoding.PEM)
    (pki.folder / "certificate.pem").write_bytes(chain)
    assert read_mutual(pki.settings(), now=now())
