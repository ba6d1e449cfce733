"""The CRDs, made from the spec classes: ``python -m dspark_operator.crd CHART`` writes them.

The files in the chart are this module's output; a test compares them.
"""

import sys
from pathlib import Path

import yaml

from dspark.config.controller import ControllerSettings
from dspark.config.gateway import GatewaySettings
from dspark.config.scaling import ScalingSettings
from dspark.config.vllm_engine import VllmEngineSettings
from dspark_operator import GROUP, VERSION
from dspark_operator.chart_schema import write_schema
from dspark_operator.document import Object, items, part
from dspark_operator.reference import write_reference
from dspark_operator.spec.front import CONTROLLER_RESERVED, GATEWAY_RESERVED
from dspark_operator.spec.parse import MAX_NAME
from dspark_operator.spec.policy import PolicySpec
from dspark_operator.spec.pools import ENGINE_RESERVED, ENGINE_SETTINGS
from dspark_operator.spec.service import ServiceSpec
from dspark_operator.structural import settings_schema, structural


def service_crd() -> Object:
    """Return the CRD of DSparkService."""
    spec = structural(ServiceSpec)
    pool = part(spec, "properties", "pools", "items")
    _replace(pool, "vllm", settings_schema(VllmEngineSettings))
    group = part(pool, "properties", "groups", "items")
    _replace(
        group,
        "engine",
        settings_schema(*ENGINE_SETTINGS.values(), reserved=ENGINE_RESERVED),
    )
    _replace(group, "scaling", settings_schema(ScalingSettings))
    _replace(
        part(spec, "properties", "gateway"),
        "settings",
        settings_schema(GatewaySettings, reserved=GATEWAY_RESERVED),
    )
    _replace(
        part(spec, "properties", "controller"),
        "settings",
        settings_schema(ControllerSettings, reserved=CONTROLLER_RESERVED),
    )
    pool_status: Object = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "role": {"type": "string"},
            "replicas": _count("Replicas that are wanted."),
            "readyReplicas": _count("Replicas that the gateway can route to."),
            "updatedReplicas": _count("Ready replicas of the newest revision; no others count."),
        },
    }
    status = _status(
        pool_status,
        replicas=_count("Ready verifiers."),
        selector=_text("Labels of the verifiers' pods, for autoscalers."),
        gpus=_count("Most GPUs that the spec may use outside of an upgrade."),
        endpoint={"type": "string", "description": "Base URL inside the cluster."},
    )
    return _crd(
        kind="DSparkService",
        plural="dsparkservices",
        short="dsvc",
        spec=spec,
        status=status,
        columns=[
            _column("Ready", _condition("Ready")),
            _column("Reason", _condition("Ready", "reason")),
            _column("Speculating", _condition("SpeculationActive")),
            _column("Model", ".spec.model.name"),
            _column("Verifiers", ".status.replicas", kind="integer"),
            _column("GPUs", ".status.gpus", kind="integer"),
            _column("Age", ".metadata.creationTimestamp", kind="date"),
        ],
        rules=[
            {
                "rule": f"self.metadata.name.size() <= {MAX_NAME}",
                "message": f"names of child objects leave room for {MAX_NAME} characters",
            }
        ],
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    )


def policy_crd() -> Object:
    """Return the CRD of VerificationPolicy."""
    pool: Object = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": _text("Pool and group, as the controller calls them."),
            "policy": _text("In force now."),
            "version": _count("Number of the last change of the pool's policy."),
            "overriddenBy": _text("Author of the live override that is in force."),
            "overriddenUntil": _text("When it ends, and this manifest holds again."),
        },
    }
    return _crd(
        kind="VerificationPolicy",
        plural="verificationpolicies",
        short="vpol",
        spec=structural(PolicySpec),
        status=_status(pool),
        columns=[
            _column("Service", ".spec.serviceName"),
            _column("Mode", ".spec.mode"),
            _column("Ready", _condition("Ready")),
            _column("InForce", _condition("InForce")),
            _column("Reason", _condition("InForce", "reason")),
            _column("Age", ".metadata.creationTimestamp", kind="date"),
        ],
        rules=[],
    )


def conditions_schema() -> Object:
    """Return the schema of metav1.Condition in a list map."""
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {"type": "string", "maxLength": 32768},
            },
        },
    }


def _status(pool: Object, **more: Object) -> Object:
    """Return a status' schema: generation, conditions, pools by name, and more."""
    return {
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": conditions_schema(),
            "pools": {
                "type": "array",
                "items": pool,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            **more,
        },
    }


def _crd(
    *,
    kind: str,
    plural: str,
    short: str,
    spec: Object,
    status: Object,
    columns: list[Object],
    rules: list[Object],
    scale: Object | None = None,
) -> Object:
    schema: Object = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    if rules:
        schema["x-kubernetes-validations"] = [*rules]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["dspark"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, **({"scale": scale} if scale else {})},
                    "additionalPrinterColumns": [*columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _replace(owner: Object, name: str, schema: Object) -> None:
    properties = part(owner, "properties")
    schema["description"] = part(properties, name)["description"]
    properties[name] = schema


def _text(description: str) -> Object:
    return {"type": "string", "description": description}


def _count(description: str) -> Object:
    return {"type": "integer", "format": "int32", "description": description}


def _condition(kind: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


def _column(name: str, path: str, *, kind: str = "string") -> Object:
    return {"name": name, "type": kind, "jsonPath": path}


def write(chart: Path) -> None:
    """Write the CRDs, the part of the values schema that follows from them, and the reference."""
    service, policy = service_crd(), policy_crd()
    for name, crd in (("dsparkservices", service), ("verificationpolicies", policy)):
        (chart / "crds" / f"{name}.yaml").write_text(dump(crd))
    write_schema(chart / "values.schema.json", spec_schema(service))
    write_reference(chart / "REFERENCE.md", spec_schema(service), spec_schema(policy))


def spec_schema(crd: Object) -> Object:
    """Return the schema of ``spec``."""
    version = items(crd, "spec", "versions")[0]
    return part(version, "schema", "openAPIV3Schema", "properties", "spec")


def dump(crd: Object) -> str:
    """Return a CRD as it stands in the chart."""
    head = "# Written by python -m dspark_operator.crd; edit the classes in dspark_operator.spec.\n"
    return head + yaml.safe_dump(crd, sort_keys=False, width=100)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
