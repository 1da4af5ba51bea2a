"""Files with their owners and modes in memory, and the tar stream of a layer."""

import io
import os
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .errors import BaseImageError

BLOCK = 512
RECORD = 20 * BLOCK  # tar files are padded to this
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A directory, regular file or symbolic link."""

    kind: str  # "dir", "file", "link"
    mode: int
    uid: int = 0
    gid: int = 0
    target: str = ""  # of a link
    size: int = 0  # of a file
    open: Callable[[], IO[bytes]] | None = None  # gives a file's content, when it is needed


class Writer(Protocol):
    """Where a tar goes: a file, or anything that takes bytes."""

    def write(self, data: bytes, /) -> object: ...


Tree = dict[str, Entry]  # by path: relative, no leading "./", no trailing "/"


def directory(mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    return Entry("dir", mode, uid, gid)


def link(target: str) -> Entry:
    return Entry("link", 0o777, target=target)


def file_of_bytes(content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Entry:
    return Entry("file", mode, uid, gid, size=len(content), open=lambda: io.BytesIO(content))


def file_on_disk(path: Path, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Entry:
    return Entry("file", mode, uid, gid, size=path.stat().st_size, open=lambda: path.open("rb"))


def content(entry: Entry) -> bytes:
    """Of a file, its bytes; of a link, its target."""
    if entry.open is None:
        return os.fsencode(entry.target)
    with entry.open() as stream:
        return stream.read()


def with_content(entry: Entry, new: bytes) -> Entry:
    """The same file with other bytes."""
    return file_of_bytes(new, entry.mode, entry.uid, entry.gid)


def parents(path: str) -> list[str]:
    """`a/b/c` → `a`, `a/b`."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def add(tree: Tree, additions: Tree) -> None:
    """Puts `additions` into the tree; directories that neither names are made, 0755 and root's."""
    for path, entry in additions.items():
        for parent in parents(path):
            tree.setdefault(parent, additions.get(parent) or directory())
        tree[path] = entry


def layer(tree: Tree, paths: Iterable[str]) -> Tree:
    """The part of the tree that a layer with these paths holds: they and the directories above them."""
    selected = {above for path in paths for above in (*parents(path), path)}
    return {path: tree[path] for path in selected}


def write_tar(tree: Tree, out: Writer, mtime: int) -> None:
    """Writes the tree, sorted by path. The bytes depend on nothing but the arguments."""
    written = 0
    for path in sorted(tree, key=os.fsencode):
        entry = tree[path]
        header = _header(path, entry, mtime)
        out.write(header)
        written += len(header)
        if entry.kind == "file":
            written += _write_content(path, entry, out)
    end = 2 * BLOCK + -(written + 2 * BLOCK) % RECORD
    out.write(bytes(end))


def _write_content(path: str, entry: Entry, out: Writer) -> int:
    copied = 0
    assert entry.open, path
    with entry.open() as source:
        while chunk := source.read(_CHUNK):
            out.write(chunk)
            copied += len(chunk)
    if copied != entry.size:
        raise BaseImageError(f"/{path} has {copied} bytes where {entry.size} were expected")
    padding = -copied % BLOCK
    out.write(bytes(padding))
    return copied + padding


_TYPES = {"file": b"0", "link": b"2", "dir": b"5"}


def _header(path: str, entry: Entry, mtime: int) -> bytes:
    """A ustar header, behind a pax one when ustar cannot say it (long or non-ASCII names)."""
    name = os.fsencode(path + "/" if entry.kind == "dir" else path)
    target = os.fsencode(entry.target)
    pax: dict[bytes, bytes] = {}
    fitted = _split(name)
    if fitted is None:
        pax[b"path"] = name
        fitted = b"", _ascii(name)[:100]
    if len(target) > 100 or not target.isascii():
        pax[b"linkpath"] = target
        target = _ascii(target)[:100]
    prefix, name = fitted
    header = _ustar(name, prefix, _TYPES[entry.kind], entry.mode, entry.uid, entry.gid, entry.size, mtime, target)
    if not pax:
        return header
    records = b"".join(_pax_record(key, value) for key, value in sorted(pax.items()))
    extended = _ustar(b"PaxHeaders/" + _ascii(posixpath.basename(name.rstrip(b"/")))[:80], b"", b"x",
                      0o644, 0, 0, len(records), mtime, b"")
    return extended + records + bytes(-len(records) % BLOCK) + header


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """The name as ustar's prefix (at most 155 bytes) and name (at most 100), or None."""
    if not name.isascii():
        return None
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    if cut < 1 or cut > 155 or cut == len(name) - 1:
        return None
    return name[:cut], name[cut + 1 :]


def _ustar(name: bytes, prefix: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int,
           target: bytes) -> bytes:
    header = bytearray(BLOCK)

    def put(offset: int, value: bytes) -> None:
        header[offset : offset + len(value)] = value

    def octal(offset: int, width: int, value: int) -> None:
        digits = b"%0*o" % (width - 1, value)
        if len(digits) >= width:
            raise BaseImageError(f"{value} does not fit into a tar header: {os.fsdecode(name)}")
        put(offset, digits)

    put(0, name)
    octal(100, 8, mode)
    octal(108, 8, uid)
    octal(116, 8, gid)
    octal(124, 12, size)
    octal(136, 12, mtime)
    put(148, b" " * 8)  # the checksum counts itself as spaces
    put(156, kind)
    put(157, target)
    put(257, b"ustar\x0000")
    put(345, prefix)
    put(148, b"%06o\0 " % sum(header))
    return bytes(header)


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value\\n`, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _ascii(name: bytes) -> bytes:
    return bytes(byte for byte in name if byte < 0x80)
