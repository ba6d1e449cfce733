"""The pair check: a Job that reads both models' configurations before anything is rolled."""

from dspark_operator import names
from dspark_operator.document import Json, Object, digest
from dspark_operator.manifests import pods
from dspark_operator.manifests.objects import Release, make
from dspark_operator.settings import location
from dspark_operator.spec.model import ModelSource
from dspark_operator.spec.parse import Service

_LONGEST_S = 1800


def pair_check(service: Service, release: Release) -> list[Object]:
    """Return the Job, named by what it compares: another pair, or image, is another check.

    Empty where nothing is drafted.  Jobs cannot be changed; one that exists is left as it is.  Its
    account and policy are made with those of the other components.
    """
    model = service.spec.model
    if model.drafter is None:
        return []
    image = service.spec.images.engine or release.engine_image
    files = (
        pods.weights(service, "target", model.target, image=image, tokenizer_only=True)
        + pods.weights(service, "drafter", model.drafter, image=image)
        + pods.scratch("tmp", "/tmp")
    )
    words: list[Json] = ["dspark", "check-pair", location(model.target, "target")]
    pod: Object = {
        "restartPolicy": "Never",
        "serviceAccountName": names.child(service, names.PAIR_CHECK),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pods.pod_security(),
        # Wherever a group may run: a check that waits for one kind of node would hold the others.
        **_tolerations(service),
        **pods.images(service),
        **({"initContainers": [*files.fetchers]} if files.fetchers else {}),
        "containers": [
            {
                "name": names.PAIR_CHECK,
                "image": image,
                "imagePullPolicy": service.spec.images.pull_policy,
                "command": [*words, location(model.drafter, "drafter")],
                "env": [{"name": "HOME", "value": "/tmp"}],
                # What does not fit is its last line.
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "resources": {
                    "requests": {"cpu": "500m", "memory": "1Gi"},
                    "limits": {"memory": "4Gi"},
                },
                "securityContext": pods.container_security(),
                "volumeMounts": [*files.mounts],
            }
        ],
        "volumes": [*files.volumes],
    }
    labels = names.labels(service, names.PAIR_CHECK)
    spec: Object = {
        "backoffLimit": 2,
        "activeDeadlineSeconds": _LONGEST_S,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    compared = digest([image, *map(_plain, (model.target, model.drafter))])
    name = names.child(service, f"{names.PAIR_CHECK}-{compared[:8]}")
    return [make(service, "batch/v1", "Job", names.PAIR_CHECK, name=name, body={"spec": spec})]


def _plain(source: ModelSource) -> Json:
    plain: Json = source.model_dump(mode="json")
    return plain


def _tolerations(service: Service) -> Object:
    found: list[Json] = []
    for _, group in service.spec.units():
        for toleration in group.tolerations:
            written = toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
            if written not in found:
                found.append(written)
    return {"tolerations": found} if found else {}
