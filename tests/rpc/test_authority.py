import pytest

from dspark.rpc.authority import Authority, Pair
from tests.rpc.pki import an_authority, now


def test_an_authority_is_taken_up_again_from_its_pair() -> None:
    first = an_authority()
    again = Authority.of(first.pair)
    assert again.pair.certificate == first.pair.certificate
    assert again.sign(["a.internal"], days=1, now=now()).certificate


def test_a_pair_that_does_not_belong_together_is_refused() -> None:
    one, other = an_authority().pair, an_authority().pair
    with pytest.raises(ValueError, match="does not belong"):
        Authority.of(Pair(certificate=one.certificate, key=other.key))
