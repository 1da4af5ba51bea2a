"""The images as their registry has them, fetched by wbuild."""

import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from . import host
from .errors import BaseImageError
from .recipe import PLATFORM, Image

_PROBE = "https://registry-1.docker.io/v2/"
_PATIENCE = 5  # seconds; wbuild itself tries for longer, which is right for a build and too long for a question


def answers(url: str = _PROBE) -> bool:
    """Whether a registry answers there. A proxy's page of refusal is no answer, and neither is a rate limit."""
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
            return _is_registry(response)
    except urllib.error.HTTPError as error:
        return error.code == 401 and _is_registry(error)
    except (OSError, ssl.SSLError, ValueError):
        return False


def _is_registry(response: urllib.request.addinfourl | urllib.error.HTTPError) -> bool:
    return response.headers.get("Docker-Distribution-Api-Version") == "registry/2.0"


def pull(image: Image, out: Path, wbuild: Path) -> Path:
    """The image as a layout below `out`; not where the made one lies, for it is another image of the same name."""
    folder = out / "pulled" / image.directory
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([wbuild, "pull", image.reference, "--platform", f"{PLATFORM['os']}/{PLATFORM['architecture']}",
                               "--output", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise BaseImageError(f"{error.filename or wbuild}: {error.strerror}") from error
    if done.returncode != 0:
        raise BaseImageError(f"{image.reference} could not be pulled (wbuild says why above)")
    host.log(f"{image.reference}: pulled from its registry")
    return folder
