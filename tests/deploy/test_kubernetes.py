# SPDX-License-Identifier: Apache-2.0
"""The manifests of examples/dask/kubernetes: what Kubernetes and dask-kubernetes take, and what they promise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from kubernetes import client
from typer.testing import CliRunner

from clf.app import part as part_of
from clf.cli.main import app as command_line
from tests.shared import ROOT

FOLDER = ROOT / "examples" / "dask" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
CUSTOM = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds/daskcluster.yaml"
MODELS = {
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("batch/v1", "Job"): "V1Job",
}
"""The models of Kubernetes' own client, which its makers generate from its OpenAPI."""


def documents(file: Path) -> list[dict[str, Any]]:
    """All resources of a file."""
    return [dict(document) for document in yaml.safe_load_all(file.read_text())]


RESOURCES = [(file.name, resource) for file in FILES for resource in documents(file)]


def closed(schema: Any) -> Any:
    """The schema of a custom resource, as Kubernetes prunes by it: what it does not name is a mistake."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def dask_schema() -> dict[str, Any]:
    """The DaskCluster's own, as dask-kubernetes ships it."""
    file = Path(str(distribution("dask-kubernetes").locate_file(CUSTOM)))
    (version,) = yaml.safe_load(file.read_text())["spec"]["versions"]
    assert version["name"] == "v1"
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {}}
    return schema


def mistakes(value: Any, kind: str, place: str = "") -> Iterator[str]:
    """What the model of that name does not take."""
    if kind.startswith("list["):
        for number, item in enumerate(value):
            yield from mistakes(item, kind[5:-1], f"{place}[{number}]")
    elif kind.startswith("dict("):
        for key, item in value.items():
            yield from mistakes(item, kind.partition(", ")[2][:-1], f"{place}.{key}")
    elif hasattr(client, kind):
        model = getattr(client, kind)
        named = {there: here for here, there in model.attribute_map.items()}
        if not isinstance(value, dict):
            yield f"{place}: not a {kind}"
            return
        for key, item in value.items():
            if key not in named:
                yield f"{place}.{key}: {kind} has no such field"
            else:
                yield from mistakes(item, model.openapi_types[named[key]], f"{place}.{key}")
        try:
            model(**{named[key]: item for key, item in value.items() if key in named})  # says what is required
        except ValueError as error:
            yield f"{place}: {error}"
    elif kind in {"str", "int", "bool"} and type(value).__name__ != kind:
        yield f"{place}: {value!r} is no {kind}"


@pytest.mark.parametrize(("file", "resource"), RESOURCES)
def test_manifests_are_what_kubernetes_takes(file: str, resource: dict[str, Any]) -> None:
    """Every field is known and of its type, by the custom resource's schema or by Kubernetes' own models."""
    which = resource["apiVersion"], resource["kind"]
    if which == ("kubernetes.dask.org/v1", "DaskCluster"):
        jsonschema.validate(resource, dask_schema())
    else:
        assert list(mistakes(resource, MODELS[which])) == []
    assert resource["metadata"].get("namespace", "clf-costs") == "clf-costs", file


def test_mistakes_in_manifests_are_found() -> None:
    """A misspelt field, a wrong type, a missing one; in the custom resource and in Kubernetes' own."""
    cluster = next(item for name, item in RESOURCES if name == "cluster.yaml")
    for wrong in ({"runAsNonroot": True}, {"runAsNonRoot": "yes"}):
        changed = json.loads(json.dumps(cluster))
        changed["spec"]["worker"]["spec"]["securityContext"] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, dask_schema())
    jobs: list[dict[str, Any]] = [
        {"template": {"sepc": {}}},
        {"template": {}, "backoffLimit": "0"},
        {"backoffLimit": 0},
    ]
    for job in jobs:
        assert list(mistakes({"metadata": {}, "spec": job}, "V1Job"))


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod that the manifests ask for."""
    found = []
    for file, resource in RESOURCES:
        if resource["kind"] == "DaskCluster":
            for role in ("scheduler", "worker"):
                found.append((f"{file}-{role}", resource["spec"][role]["spec"]))
        elif resource["kind"] == "Job":
            found.append((f"{file}-app", resource["spec"]["template"]["spec"]))
    return found


PODS = pods()


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_pods_are_confined(name: str, pod: dict[str, Any]) -> None:
    """As Kubernetes' restricted profile wants it: no root, no capability, no token, nothing of the host, no secret in a
    variable; what can be written is in memory."""
    assert pod["automountServiceAccountToken"] is False
    outer = pod["securityContext"]
    assert outer["runAsNonRoot"]
    assert outer["runAsUser"] > 0
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert "envFrom" not in container
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {})
            assert variable["name"] in {"POD_IP", part_of.ENVIRONMENT}
    for volume in pod["volumes"]:
        assert "hostPath" not in volume
        assert "secret" in volume or volume["emptyDir"]["medium"] == "Memory"
    assert all("/dev/shm" not in str(volume) for volume in pod["volumes"])  # noqa: S108


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_what_pods_start_is_understood(name: str, pod: dict[str, Any]) -> None:
    """The real command line takes a pod's command up to its app, which is not here; on SGX, CLF's launcher does."""
    container = pod["containers"][0]
    role = name.rpartition("-")[2]
    ports = {port["containerPort"] for port in container.get("ports", [])}
    if "sgx" in name:
        assert "command" not in container
        limits = container["resources"]["limits"]
        assert limits["sgx.intel.com/enclave"] == "1"
        assert "sgx.intel.com/epc" in limits
        (value,) = (item["value"] for item in container["env"] if item["name"] == part_of.ENVIRONMENT)
        part = part_of.here({part_of.ENVIRONMENT: filled(value)})
    else:
        assert "sgx" not in json.dumps(pod)
        words = [filled(word) for word in [*container["command"], *container.get("args", [])]]
        done = CliRunner().invoke(command_line, words[1:])
        assert done.exit_code != 2, done.output  # of a command line that is not understood
        assert "there is no" in str(done.exception), done.output
        options = dict(zip(words[3::2], words[4::2], strict=True))
        assert options.pop("--platform") == "/platform"
        part = part_of.part(options.pop("--role"), **{key[2:]: value for key, value in options.items()})
    assert part.role == role
    if role == "app":
        assert not ports
    elif role == "scheduler":
        assert ports == {part.join[1], part.place.port}
        assert part.place.contact == "tls://costs-scheduler.clf-costs:8786"
    else:
        assert ports == {part.place.port}
        assert part.join == ("costs-scheduler.clf-costs", 8785)


def filled(word: str) -> str:
    """As Kubernetes does with a pod's own address."""
    return word.replace("$(POD_IP)", "10.0.0.7")


def test_the_network_is_closed_but_for_what_members_need() -> None:
    """Everything is refused first; then only the cluster's own ports, names, owners and collateral."""
    policies = {item["metadata"]["name"]: item["spec"] for _, item in RESOURCES if item["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert all("ingress" not in spec for name, spec in policies.items() if name != "members")
    for rules in (policies["members"]["ingress"], policies["members"]["egress"]):
        (rule,) = rules
        (peer,) = rule.get("from") or rule["to"]
        assert peer == {"podSelector": {"matchLabels": {"app": "costs"}}}
        assert {port["port"] for port in rule["ports"]} == {
            part_of.JOIN_PORT,
            part_of.SCHEDULER_PORT,
            part_of.WORKER_PORT,
        }
    labels = [
        resource["spec"][role]["metadata"]["labels"]
        for _, resource in RESOURCES
        if resource["kind"] == "DaskCluster"
        for role in ("scheduler", "worker")
    ]
    labels += [item["spec"]["template"]["metadata"]["labels"] for _, item in RESOURCES if item["kind"] == "Job"]
    assert all(label == {"app": "costs"} for label in labels)
