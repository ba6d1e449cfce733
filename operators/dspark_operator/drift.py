"""Drift: whether a live object still holds everything that was asked for."""

from decimal import Decimal, InvalidOperation

from dspark_operator.document import Json, Object, at, text
from dspark_operator.names import DIGEST_ANNOTATION

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip


def drift(desired: Object, live: Object) -> str | None:
    """Return why ``live`` has to be written again, or None.

    Fields that the API server or other controllers added are theirs; fields that we no longer
    ask for show in the digest.
    """
    asked = text(desired, "metadata", "annotations", DIGEST_ANNOTATION)
    if asked != text(live, "metadata", "annotations", DIGEST_ANNOTATION):
        return "the spec asks for something else"
    where = _first_difference(desired, live, "")
    return f"{where} was changed by somebody else" if where else None


def other_strategy(desired: Object, live: Object) -> bool:
    """Say whether a Deployment would begin to replace its pods in another way.

    In the middle of a rollout, and with another count besides, Kubernetes' own controller does not
    get out of that: such a Deployment is made anew.
    """
    path = ("spec", "strategy", "type")
    return desired["kind"] == "Deployment" and text(desired, *path) != text(live, *path)


def changed_list(desired: Object, live: Object) -> tuple[str, Json] | None:
    """Return the list in which somebody changed something: (JSON pointer, as it should be).

    A server-side apply leaves the entries of others in a list, and so cannot restore one.  None
    where the first difference is in no list, or where we ask for something else ourselves.
    """
    if text(desired, "metadata", "annotations", DIGEST_ANNOTATION) != text(
        live, "metadata", "annotations", DIGEST_ANNOTATION
    ):
        return None
    where = _first_difference(desired, live, "") or ""
    path = where.partition("[")[0].strip(".").split(".")
    wanted = at(desired, *path)
    return ("/" + "/".join(path), wanted) if isinstance(wanted, list) else None


def _first_difference(desired: Json, live: Json, where: str) -> str | None:
    """Return the path of the first value of ``desired`` that ``live`` lacks, or None."""
    if isinstance(desired, dict):
        if not isinstance(live, dict):
            return None if not desired and live is None else where
        for key, value in desired.items():
            found = _first_difference(value, live.get(key), f"{where}.{key}")
            if found:
                return found
        return None
    if isinstance(desired, list):
        if not isinstance(live, list):
            return None if not desired and live is None else where
        if len(desired) != len(live):
            return where
        for position, value in enumerate(desired):
            found = _first_difference(value, live[position], f"{where}[{position}]")
            if found:
                return found
        return None
    if desired == live or _same_quantity(desired, live):
        return None
    # The API server leaves out what is empty or false.
    return None if live is None and not desired else where


def _same_quantity(one: Json, other: Json) -> bool:
    """Say whether both are the same quantity, which the API server rewrites (500m, 0.5)."""
    first, second = _quantity(one), _quantity(other)
    return first is not None and first == second


def _quantity(value: Json) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    written = str(value)
    digits = written.rstrip("numkKMGTi")
    factor = _SUFFIXES.get(written[len(digits) :])
    try:
        return None if factor is None else Decimal(digits) * factor
    except InvalidOperation:
        return None
