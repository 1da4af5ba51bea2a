"""OCI image layouts: writing one, and verifying one that lies there."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BaseImageError

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MARKER = {"imageLayoutVersion": "1.0.0"}
# In index.json beside the image's names: from what the layout was made. Not in the manifest, whose digest thus stays
# the same when the recipe changes without changing the image.
INPUTS_ANNOTATION = "dev.wbuild.base-image.inputs"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class LayoutError(BaseImageError):
    """Why a layout cannot be used as it is."""


@dataclass(frozen=True)
class Layer:
    path: Path  # the compressed tar
    digest: str
    size: int
    diff_id: str
    created_by: str


@dataclass(frozen=True)
class ImageSpec:
    """What the config says beyond the layers."""

    config: dict[str, Any]
    platform: dict[str, str]
    created: str
    history: list[str] = field(default_factory=list)  # of steps without a layer, after the layers'


def write(path: Path, layers: list[Layer], spec: ImageSpec, annotations: dict[str, str]) -> str:
    """Writes a layout into the directory `path`, which must not exist; returns the manifest's digest."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for layer in layers:
        _link_or_copy(layer.path, blobs / _hex(layer.digest))

    history: list[dict[str, Any]] = [{"created": spec.created, "created_by": layer.created_by} for layer in layers]
    history += [{"created": spec.created, "created_by": step, "empty_layer": True} for step in spec.history]
    config = {
        **spec.platform,
        "created": spec.created,
        "config": spec.config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": history,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _put(blobs, CONFIG_TYPE, config),
        "layers": [{"mediaType": LAYER_TYPE, "digest": each.digest, "size": each.size} for each in layers],
    }
    descriptor = _put(blobs, MANIFEST_TYPE, manifest)
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [{**descriptor, "platform": spec.platform, "annotations": annotations}],
    }
    (path / "oci-layout").write_bytes(_json(MARKER))
    (path / "index.json").write_bytes(_json(index))
    return str(descriptor["digest"])


def verify(path: Path, inputs: str) -> str:
    """Checks the layout from its index down to each layer's bytes; returns the manifest's digest or raises LayoutError.

    `inputs` is the digest that the layout must have been made from.
    """
    index_file = path / "index.json"
    try:
        marker = json.loads((path / "oci-layout").read_bytes())
        index = json.loads(index_file.read_bytes())
        (descriptor,) = index["manifests"]
        made_from = descriptor["annotations"][INPUTS_ANNOTATION]
    except FileNotFoundError:
        raise LayoutError(f"{path}: no layout there yet") from None
    except OSError as error:
        raise LayoutError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(f"{index_file}: not an index that this script wrote ({error!r})") from error
    if marker != MARKER:
        raise LayoutError(f"{path}: oci-layout says {marker}, expected {MARKER}")
    if made_from != inputs:
        raise LayoutError(f"{path}: made from other inputs ({made_from}, now {inputs})")
    manifest = json.loads(_checked_blob(path, descriptor))
    for each in (manifest["config"], *manifest["layers"]):
        _checked_blob(path, each)
    return str(descriptor["digest"])


def total_size(path: Path) -> int:
    """Bytes of all blobs."""
    return sum(blob.stat().st_size for blob in (path / "blobs" / "sha256").iterdir())


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _checked_blob(path: Path, descriptor: dict[str, Any]) -> bytes:
    blob = path / "blobs" / "sha256" / _hex(descriptor["digest"])
    try:
        content = blob.read_bytes()
    except OSError as error:
        raise LayoutError(f"{blob}: {error.strerror}") from error
    if len(content) != descriptor["size"]:
        raise LayoutError(f"{blob}: has {len(content)} bytes, should have {descriptor['size']}")
    if digest_of(content) != descriptor["digest"]:
        raise LayoutError(f"{blob}: its bytes do not have the digest in its name")
    return content


def _put(blobs: Path, media_type: str, value: object) -> dict[str, Any]:
    content = _json(value)
    digest = digest_of(content)
    (blobs / _hex(digest)).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise LayoutError(f"not a SHA-256 digest: {digest!r}")
    return match[1]


def _link_or_copy(source: Path, target: Path) -> None:
    """The images share layers; where the file system can, they share the bytes on disk as well."""
    try:
        target.hardlink_to(source)
    except OSError:
        target.write_bytes(source.read_bytes())
