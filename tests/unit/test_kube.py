"""Kubernetes' YAML: what is read of it, and what is played."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.kube import PodManifest, read_manifest
from pytest_rexxinfra.model import Kind, Resource, Volume

POD = """
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {COLOUR: red}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: shop}}
spec:
  hostNetwork: true
  volumes:
  - {name: site, hostPath: {path: /srv}}
  - {name: empty, emptyDir: {}}
  initContainers:
  - {name: first, image: mini, command: ["true"]}
  containers:
  - name: app
    image: debian-12
    command: [sleep]
    args: ["9"]
    resources: {limits: {memory: 64Mi}}
    securityContext: {privileged: true}
    volumeMounts:
    - {name: site, mountPath: /www, readOnly: true}
    - {name: empty, mountPath: /scratch}
"""


def only(text: str) -> PodManifest:
    (pod,) = read_manifest(text)
    return pod


def test_what_the_machines_would_be() -> None:
    first, app = only(POD).specs
    assert (first.image, first.command) == ("mini", ("true",))
    assert (app.command, app.memory, app.privileged, app.network) == (("sleep", "9"), 64 << 20, True, "host")
    assert app.volumes == (Volume("/srv", "/www", read_only=True),)


def test_what_is_played_is_leased() -> None:
    pod = only(POD)
    lease = Resource.lease_for("podman", Kind.POD, "run", pod.name)
    others, played = pod.leased(lease, {"mini": "rexxinfra/mini:1", "debian-12": "rexxinfra/debian-12:1"})
    assert others["kind"] == "ConfigMap"
    assert played["metadata"] == {"name": lease.name, "labels": {"app": "shop", **lease.labels()}}
    (app,) = played["spec"]["containers"]
    assert (app["image"], app["imagePullPolicy"]) == ("rexxinfra/debian-12:1", "Never")
    assert pod.document["metadata"]["name"] == "web"


def test_deployment(tmp_path: Path) -> None:
    path = tmp_path / "back.yaml"
    template = "{metadata: {labels: {a: b}}, spec: {containers: [{name: one, image: mini}]}}"
    path.write_text(f"kind: Deployment\nmetadata: {{name: back}}\nspec: {{replicas: 2, template: {template}}}\n")
    pods = read_manifest(path)
    assert [pod.name for pod in pods] == ["back-1", "back-2"]
    assert pods[0].document["metadata"] == {"labels": {"a": "b"}}
    assert [pod.name for pod in read_manifest(str(path))] == ["back-1", "back-2"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("kind: [", "is no YAML"),
        ("just text", "without a kind"),
        ("kind: Job", "Job cannot be played"),
        ("kind: ConfigMap", "has no pods"),
        ("kind: Pod\nspec: {}", "is no name"),
        ("kind: Pod\nmetadata: {name: x}", "has no containers"),
        ("kind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a}]}", "has no image"),
        ("kind: Deployment\nmetadata: {name: x}\nspec: {}", "has no containers"),
        ("no/such.yaml", "cannot be read"),
    ],
)
def test_what_cannot_be_played(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        _ = [pod.specs for pod in read_manifest(text)]
