"""Layers 1 and 2: an Alpine root out of a virtual machine's disk, and a local apk repository made with it."""

import contextlib
import fnmatch
import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from . import apkdb, host, recipe, rsa
from .errors import BaseImageError
from .layout import Layer, digest_of
from .tree import (
    Entry,
    Tree,
    Writer,
    content,
    directory,
    file_of_bytes,
    file_on_disk,
    link,
    parents,
    with_content,
    write_tar,
)

# What debugfs says of each file when it is not run by root.
_EXPECTED_COMPLAINT = "while changing ownership of"


class AlpineRoot:
    """An unpacked root whose programs can be run by anybody, without chroot: through its own dynamic loader.

    Only contents are taken from the disk. Owners and modes there depend on who unpacks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        libraries = f"{path}/lib:{path}/usr/lib"
        self._loader = (f"{path}/lib/ld-musl-{recipe.ARCH}.so.1", "--library-path", libraries)

    def apk(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        host.run([*self._loader, self.path / "sbin/apk", *arguments], cwd=cwd, env=self._env())

    def gzip(self, out: Path) -> subprocess.Popen[bytes]:
        """Busybox's gzip, compressing what is written to the process's stdin.

        Compressed bytes are part of a layer's digest, and Python's zlib gives others depending on the machine (zlib,
        zlib-ng, their versions). This compressor is pinned with the wheel, and its header holds neither name nor time.
        """
        with out.open("wb") as stream:
            return subprocess.Popen([*self._loader, self.path / "bin/busybox", "gzip"], env=self._env(),
                                    stdin=subprocess.PIPE, stdout=stream)

    @staticmethod
    def _env() -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SOURCE_DATE_EPOCH": str(recipe.EPOCH)}


def unpack(wheel: Path, work: Path) -> AlpineRoot:
    """The disk in the wheel → a directory, with the virtual machine's packages removed."""
    qemu_img, debugfs = host.tool("qemu-img"), host.tool("debugfs")
    host.log("unpacking Alpine")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(recipe.QCOW2_MEMBER) as member,
        (work / "disk.qcow2").open("wb") as disk,
    ):
        shutil.copyfileobj(member, disk)
    host.run([qemu_img, "convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "disk.raw"], cwd=work)
    root = work / "root"
    root.mkdir()
    # debugfs exits with 0 whatever happens.
    said = host.run([debugfs, "-R", f"rdump / {root.name}", "disk.raw"], cwd=work, env={"LC_ALL": "C"}).splitlines()
    if failures := [line for line in said if _EXPECTED_COMPLAINT not in line and not line.startswith("debugfs ")]:
        raise BaseImageError("debugfs could not unpack Alpine:\n" + "\n".join(failures[:10]))
    for disk_file in ("disk.qcow2", "disk.raw"):
        (work / disk_file).unlink()
    if not (root / "sbin/apk").is_file():
        raise BaseImageError(f"{wheel}: debugfs found no Alpine root in {recipe.QCOW2_MEMBER}")

    alpine = AlpineRoot(root)
    alpine.apk("--root", root, "--repositories-file", "/dev/null", "--no-network", "--no-cache", "--no-logfile",
               "del", "--no-scripts", "--purge", *recipe.VM_PACKAGES)
    return alpine


def base_tree(alpine: AlpineRoot) -> Tree:
    """Layer 1: what Alpine's packages own, as they made it, and the few files that installing them left."""
    root = alpine.path
    owned = list(apkdb.parse(os.fsdecode((root / "lib/apk/db/installed").read_bytes())))
    tree: Tree = {}
    for item in owned:
        if item.path:
            tree[item.path] = directory(item.mode, item.uid, item.gid) if item.is_directory else _owned_file(root, item)
    for path, mode in _kept_unowned(root, tree):
        tree[path] = _from_disk(root, path, mode, 0, 0)
    # What busybox's own trigger does with every command that no package brings.
    for path in (root / "etc/busybox-paths.d/busybox").read_text().split():
        tree.setdefault(path, link("/bin/busybox"))
    for path in list(tree):
        if missing := [each for each in parents(path) if each not in tree]:
            raise BaseImageError(f"/{path}: no package owns its directory /{missing[0]}")

    shadow = tree[recipe.SHADOW]
    tree[recipe.SHADOW] = with_content(shadow, content(shadow).replace(recipe.ROOT_OPEN, recipe.ROOT_LOCKED, 1))
    return tree


def _owned_file(root: Path, item: apkdb.Owned) -> Entry:
    """A packaged file as its package installed it: proved by the database's checksum."""
    path = item.path
    entry = _from_disk(root, path, item.mode, item.uid, item.gid)
    if path in recipe.RESTORED_FILES:
        entry = with_content(entry, recipe.RESTORED_FILES[path])
    elif path in recipe.RESTORED_LINKS:
        entry = link(recipe.RESTORED_LINKS[path])
    elif path in recipe.ACCOUNT_TABLES:
        entry = with_content(entry, _packaged_accounts(content(entry)))
    if apkdb.checksum(content(entry)) != item.checksum:
        raise BaseImageError(f"/{path} in the unpacked Alpine is not what its package installed")
    return entry


def _packaged_accounts(table: bytes) -> bytes:
    lines = [line for line in table.splitlines(keepends=True) if line.split(b":")[0] not in recipe.VM_ACCOUNTS]
    return b"".join(lines).replace(recipe.ROOT_LOCKED, recipe.ROOT_OPEN, 1)


def _kept_unowned(root: Path, owned: Tree) -> list[tuple[str, int]]:
    """Path and mode of what recipe.KEPT_UNOWNED names."""
    found = []
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), root)
            mode = next((mode for pattern, mode in recipe.KEPT_UNOWNED.items() if fnmatch.fnmatchcase(path, pattern)),
                        None)
            if mode is not None and path not in owned:
                found.append((path, mode))
    return found


def _from_disk(root: Path, path: str, mode: int, uid: int, gid: int) -> Entry:
    source = root / path
    if source.is_symlink():
        return link(os.readlink(source))
    if source.is_file():
        return file_on_disk(source, mode, uid, gid)
    raise BaseImageError(f"/{path} is missing in the unpacked Alpine, or neither file nor link")


def repository_tree(alpine: AlpineRoot, work: Path) -> Tree:
    """Layer 2: a signed repository of empty packages, and what makes apk use it and nothing else."""
    host.log("making the local apk repository")
    packages = work / "packages"
    keys = work / "keys"
    packages.mkdir()
    keys.mkdir()
    key = rsa.derive()
    private = work / "signing.rsa"
    private.write_bytes(key.private_pem())
    (keys / recipe.SIGNING_KEY).write_bytes(key.public_pem())
    for name in recipe.STAND_INS:
        info = {
            "name": name,
            "version": recipe.STAND_IN_VERSION,
            "description": f"Empty stand-in for {name}, so that apk add works offline",
            "arch": recipe.ARCH,
            "license": "Apache-2.0",
            "origin": "wbuild-base",
        }
        options = [option for field, value in info.items() for option in ("--info", f"{field}:{value}")]
        alpine.apk("mkpkg", *options, "--sign-key", private, "--output", packages / _package_file(name))
    alpine.apk("mkndx", "--keys-dir", keys, "--sign-key", private, "--output", "Packages.adb",
               *map(_package_file, recipe.STAND_INS), cwd=packages)

    folder = f"{recipe.REPOSITORY}/{recipe.ARCH}"
    additions: Tree = {
        "etc/apk/repositories": file_of_bytes(f"v3 /{recipe.REPOSITORY}\n".encode()),
        f"etc/apk/keys/{recipe.SIGNING_KEY}": file_of_bytes(key.public_pem()),
        folder: directory(),
    }
    for path in packages.iterdir():
        additions[f"{folder}/{path.name}"] = file_on_disk(path)
    return additions


def _package_file(name: str) -> str:
    return f"{name}-{recipe.STAND_IN_VERSION}.apk"


class _Hashing:
    """A stream that hashes what passes through it."""

    def __init__(self, out: Writer) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.sha256.update(data)
        self._out.write(data)


def write_layer(alpine: AlpineRoot, tree: Tree, path: Path, created_by: str) -> Layer:
    """Tars and compresses the tree into the file `path`."""
    with contextlib.suppress(BrokenPipeError), alpine.gzip(path) as compressor:  # if it dies, the code below tells
        assert compressor.stdin
        hashing = _Hashing(compressor.stdin)
        write_tar(tree, hashing, recipe.EPOCH)
    if compressor.returncode != 0:
        raise BaseImageError(f"busybox gzip failed with exit code {compressor.returncode}, writing {path}")
    compressed = path.read_bytes()
    return Layer(path, digest_of(compressed), len(compressed), f"sha256:{hashing.sha256.hexdigest()}", created_by)
