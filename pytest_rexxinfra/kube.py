"""Kubernetes' YAML, read as far as a container engine can play it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import UsageError
from .model import Resource, Spec, Volume, check_name, parse_size

Document = Mapping[str, Any]

_PLAYED = ("Pod", "Deployment", "ConfigMap")
_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class PodManifest:
    """One pod of a manifest, and the documents that it may refer to."""

    name: str
    document: Document
    others: Sequence[Document]

    @property
    def containers(self) -> Sequence[Document]:
        """The containers that stay."""
        listed: Sequence[Document] = self.document["spec"].get("containers") or ()
        if not listed:
            raise UsageError(f"pod {self.name} has no containers")
        return listed

    @cached_property
    def specs(self) -> Sequence[Spec]:
        """What each container, those that only prepare others included, would be as a machine."""
        pod = self.document["spec"]
        prepared = (*(pod.get("initContainers") or ()), *self.containers)
        return [_spec(each, pod, self.name) for each in prepared]

    def leased(self, lease: Resource, images: Mapping[str, str]) -> list[Document]:
        """The documents to play, with the name and labels of a lease, and ``images`` for those that were named."""
        document = deepcopy(dict(self.document))
        metadata = document.setdefault("metadata", {})
        metadata["name"] = lease.name
        metadata["labels"] = {**(metadata.get("labels") or {}), **lease.labels()}
        pod = document["spec"]
        for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
            container["image"] = images[container["image"]]
            container["imagePullPolicy"] = "Never"
        return [*self.others, document]


def read_manifest(source: str | Path) -> list[PodManifest]:
    """The pods of a manifest, given as text or as a file that ends in .yaml, .yml or .json.

    Raises `UsageError` for what is no manifest, and for kinds other than Pod, Deployment and ConfigMap.
    """
    import yaml

    text, place = _text(source)
    try:
        documents = [each for each in yaml.safe_load_all(text) if each]
    except yaml.YAMLError as error:
        raise UsageError(f"{place} is no YAML: {error}") from error
    for each in documents:
        kind = each.get("kind") if isinstance(each, dict) else None
        if kind not in _PLAYED:
            what = kind or "a document without a kind"
            raise UsageError(f"{place}: {what} cannot be played", hint=f"what can: {', '.join(_PLAYED)}")
    others = [each for each in documents if each["kind"] == "ConfigMap"]
    pods = [
        PodManifest(check_name(f"{place}: name of a pod", name), document, others)
        for each in documents
        for name, document in _pods(each)
    ]
    if not pods:
        raise UsageError(f"{place} has no pods", hint="it needs a document of kind Pod or Deployment")
    return pods


def _text(source: str | Path) -> tuple[str, str]:
    """The text of a manifest, and what to call it."""
    if isinstance(source, str) and not source.strip().endswith(_SUFFIXES):
        return source, "the manifest"
    try:
        return Path(source).read_text(), str(source)
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from error


def _pods(document: Document) -> Iterator[tuple[str, Document]]:
    """Names and documents of the pods that a document asks for."""
    if document["kind"] == "ConfigMap":
        return
    name = str((document.get("metadata") or {}).get("name") or "")
    wanted = document.get("spec") or {}
    source = document if document["kind"] == "Pod" else wanted.get("template") or {}
    parts = {part: source.get(part) or {} for part in ("metadata", "spec")}
    replicas = 1 if source is document else wanted.get("replicas", 1)
    for number in range(1, replicas + 1):
        yield name if replicas == 1 else f"{name}-{number}", {"apiVersion": "v1", "kind": "Pod", **parts}


def _spec(container: Document, pod: Document, name: str) -> Spec:
    if not container.get("image") or not container.get("name"):
        raise UsageError(f"pod {name}: a container has no {'image' if container.get('name') else 'name'}")
    paths = {each["name"]: each["hostPath"]["path"] for each in pod.get("volumes") or () if each.get("hostPath")}
    limits = (container.get("resources") or {}).get("limits") or {}
    mounts = container.get("volumeMounts") or ()
    return Spec(
        image=container["image"],
        command=tuple(map(str, (*(container.get("command") or ()), *(container.get("args") or ())))) or None,
        # A "k" is taken for a "Ki", so a limit is never thought to be lower than it is.
        memory=parse_size(f"{limits['memory']}B", f"pod {name}: memory") if "memory" in limits else None,
        privileged=bool((container.get("securityContext") or {}).get("privileged")),
        host_pid=bool(pod.get("hostPID")),
        network="host" if pod.get("hostNetwork") else None,
        volumes=tuple(
            Volume(paths[each["name"]], each["mountPath"], bool(each.get("readOnly")))
            for each in mounts
            if each["name"] in paths
        ),
    )
