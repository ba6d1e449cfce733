"""Which pair is served, and where its weights come from."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from dspark_operator.spec.base import Image, ObjectName, Part, rules

_ONE = "exactly one of hub, pvc, objectStore and builtin must be set"


class HubSource(Part):
    """A repository of the Hugging Face hub; downloaded when a pod starts."""

    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", max_length=256)
    """Repository, as ``organisation/name``."""
    revision: str = Field(default="main", min_length=1, max_length=128)
    """Branch, tag or commit; a commit keeps every pod on the same weights."""
    token_secret_name: ObjectName | None = None
    """Secret whose key ``token`` opens a private repository."""


class PvcSource(Part):
    """A folder on a volume that already holds the weights; mounted read-only."""

    claim_name: ObjectName
    """PersistentVolumeClaim in this namespace (ReadOnlyMany or ReadWriteMany for several nodes)."""
    path: str = Field(default="", max_length=512, pattern=r"^([^/.][^\n]*)?$")
    """Folder on the volume; empty: its root."""


class ObjectStoreSource(Part):
    """A prefix of an object store, copied when a pod starts by an image that knows how."""

    uri: str = Field(pattern=r"^[a-z0-9]+://\S+$", max_length=512)
    """Prefix that holds the weights, as ``s3://bucket/prefix``."""
    image: Image
    """Image with a copying tool."""
    command: list[str] = Field(min_length=1, max_length=32)
    """Copies ``$(SOURCE)`` into the folder ``$(DESTINATION)``."""
    env_secret_name: ObjectName | None = None
    """Secret whose keys become environment variables of the copying tool."""


class ModelSource(Part):
    """Where the weights of one model come from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.hub), has(self.pvc), has(self.objectStore), has(self.builtin)]"
                ".filter(x, x).size() == 1",
                _ONE,
            )
        )
    )
    hub: HubSource | None = None
    """From the Hugging Face hub."""
    pvc: PvcSource | None = None
    """From a volume."""
    object_store: ObjectStoreSource | None = None
    """From an object store."""
    builtin: str | None = Field(default=None, pattern=r"^demo/(target|drafter)$")
    """From the image itself: the small demo pair."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        given = (self.hub, self.pvc, self.object_store, self.builtin)
        if sum(source is not None for source in given) != 1:
            raise ValueError(_ONE)
        return self


class ModelSpec(Part):
    """The pair: target and drafter."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[\w./-]+$")
    """Model name that clients ask for."""
    target: ModelSource
    """Weights of the target."""
    drafter: ModelSource | None = None
    """Weights of the drafter; absent serves without drafting."""
    page_tokens: int = Field(default=16, ge=1, le=256)
    """Tokens in one KV page; the same in prefill and verifier pools."""
    rows_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Element type of projected context rows."""
