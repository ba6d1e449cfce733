"""An API server in a dictionary: what the operator's client asks of one, and no more."""

import copy
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

Document = dict[str, Any]
Key = tuple[str, str, str, str]


class _Answer:
    def __init__(self, document: Document) -> None:
        self._document = document

    @property
    def data(self) -> str:
        return json.dumps(self._document)


def _failure(status: int, message: str) -> ApiException:
    failure = ApiException(status=status, reason=message)
    failure.body = json.dumps({"message": message})
    return failure


@dataclass
class FakeResource:
    """One kind."""

    api: "FakeApi"
    api_version: str
    kind: str

    def get(
        self, *, namespace: str, name: str | None = None, label_selector: str = "", serialize: bool
    ) -> _Answer:
        assert not serialize
        if name is not None:
            key = (self.api_version, self.kind, namespace, name)
            if key not in self.api.objects:
                raise NotFoundError(_failure(404, "not found"))
            return _Answer(self.api.objects[key])
        label, _, value = label_selector.partition("=")
        return _Answer(
            {
                "items": [
                    document
                    for (api, kind, where, _), document in self.api.objects.items()
                    if (api, kind, where) == (self.api_version, self.kind, namespace)
                    and (not label or document["metadata"].get("labels", {}).get(label) == value)
                ]
            }
        )

    @property
    def status(self) -> "FakeStatus":
        """The status subresource."""
        return FakeStatus(self)

    def delete(self, *, name: str, namespace: str, body: Document) -> None:
        key = (self.api_version, self.kind, namespace, name)
        if key not in self.api.objects:
            raise NotFoundError(_failure(404, "not found"))
        del self.api.objects[key]
        self.api.log.append(f"delete {self.kind} {name}")

    def patch(self, *, name: str, namespace: str, body: Any, content_type: str) -> None:
        self.api.log.append(f"patch {self.kind} {name}")
        self.api.patches.append(body)


@dataclass
class FakeStatus:
    """The status of one kind."""

    resource: FakeResource

    def patch(self, *, name: str, namespace: str, body: Any, content_type: str) -> None:
        assert content_type == "application/merge-patch+json"
        kind = self.resource
        document = kind.api.objects[kind.api_version, kind.kind, namespace, name]
        document["status"] = {**document.get("status", {}), **body["status"]}
        kind.api.log.append(f"status {kind.kind} {name}")


@dataclass
class FakeApi:
    """All objects, and a log of what was written."""

    objects: dict[Key, Document] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    patches: list[Any] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    refusing: dict[str, str] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)

    @property
    def resources(self) -> Any:
        return SimpleNamespace(get=self._resource)

    def _resource(self, *, api_version: str, kind: str) -> FakeResource:
        if kind in self.missing:
            raise ResourceNotFoundError(f"no {kind}")
        return FakeResource(self, api_version, kind)

    def server_side_apply(
        self, resource: FakeResource, *, body: Document, field_manager: str, force_conflicts: bool
    ) -> None:
        name = body["metadata"]["name"]
        if resource.kind in self.failing:
            raise _failure(500, "etcd is away")
        if resource.kind in self.refusing:
            raise _failure(422, self.refusing[resource.kind])
        key = (resource.api_version, resource.kind, body["metadata"]["namespace"], name)
        before = self.objects.get(key, {})
        after = copy.deepcopy(body)
        after["metadata"]["generation"] = before.get("metadata", {}).get("generation", 0) + 1
        if "status" in before:
            after["status"] = before["status"]
        self.objects[key] = after
        self.log.append(f"apply {resource.kind} {name}")

    def of(self, kind: str, name: str) -> Document:
        """The one object of a kind and name."""
        (found,) = [d for key, d in self.objects.items() if (key[1], key[3]) == (kind, name)]
        return found
