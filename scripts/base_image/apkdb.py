"""Alpine's database of installed packages, /lib/apk/db/installed: the table of owners, modes and checksums."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import BaseImageError


@dataclass
class Owned:
    """A path that a package owns."""

    path: str
    is_directory: bool
    mode: int
    uid: int = 0
    gid: int = 0
    checksum: str = ""  # of a file's content or a link's target


def parse(text: str) -> Iterator[Owned]:
    """Lines are `X:value`: F a directory, M its attributes; R a file in it, `a` its attributes, Z its checksum."""
    folder = ""
    current: Owned | None = None
    for number, line in enumerate(text.splitlines(), 1):
        field, _, value = line.partition(":")
        if field == "F" or field == "R":
            if current:
                yield current
            if field == "F":
                folder = value
                current = Owned(folder, True, 0o755)
            else:
                current = Owned(f"{folder}/{value}".lstrip("/"), False, 0o644)
        elif field in ("M", "a", "Z"):
            if not current:
                raise BaseImageError(f"/lib/apk/db/installed, line {number}: {field} without a file before it")
            if field == "Z":
                current.checksum = value
            else:
                uid, gid, mode = value.split(":")[:3]
                current.uid, current.gid, current.mode = int(uid), int(gid), int(mode, 8)
        elif field == "" and current:  # the blank line after a package
            yield current
            current = None
    if current:
        yield current


def checksum(content: bytes) -> str:
    """As the database has it: Q1 and SHA-1 in base64. Guards against damage; trust rests on the wheel's SHA-256."""
    return "Q1" + base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
