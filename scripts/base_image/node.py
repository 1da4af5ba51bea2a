"""Layer 3: Node and npm in /usr/local, and the user `node`."""

import posixpath
import zipfile

from . import recipe
from .errors import BaseImageError
from .tree import Entry, Tree, content, directory, file_of_bytes, link, with_content

# The day that the account's password was last changed, as /etc/shadow counts.
_DAY = recipe.EPOCH // 86400


def node_tree(wheel: zipfile.ZipFile, base: Tree) -> Tree:
    """What the layer adds to `base`. Files' contents are read from the open wheel when the layer is written."""
    tree: Tree = {}
    for member in wheel.infolist():
        if path := _installed_path(member.filename):
            tree[path] = _entry(wheel, member)
    for path, target in recipe.NODE_LINKS.items():
        _check_target(tree, path, target)
        tree[path] = link(target)
    for prefix, path in recipe.LIBRARY_LINKS.items():
        libraries = [each for each in tree if each.startswith(f"usr/local/lib/{prefix}")]
        if len(libraries) != 1:
            raise BaseImageError(f"{wheel.filename}: expected one library {prefix}*, found {libraries}")
        tree[path] = link(posixpath.relpath(libraries[0], posixpath.dirname(path)))
    tree[recipe.ENTRYPOINT] = file_of_bytes(recipe.ENTRYPOINT_SCRIPT, 0o755)
    tree.update(_user(base))
    return tree


def _installed_path(member: str) -> str | None:
    """Where a member of the wheel belongs, or None for what is left out."""
    if member.count("/") == 1 and not member.endswith("/") and member.startswith(recipe.NODE_PREFIX):
        return None  # the wheel's own Python files
    if member.startswith(recipe.NODE_HEADERS_BY_MACHINE) and not member.startswith(recipe.NODE_HEADERS_KEPT):
        return None
    for prefix, place in ((recipe.NODE_PREFIX, "usr/local/"), (recipe.NODE_LIBRARIES, "usr/local/lib/")):
        if member.startswith(prefix) and member != prefix:
            path = place + member.removeprefix(prefix).rstrip("/")
            if posixpath.normpath(path) != path:
                raise BaseImageError(f"a member of the Node wheel has an odd name: {member!r}")
            return path
    return None


def _entry(wheel: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
    if member.is_dir():
        return directory()
    executable = member.external_attr >> 16 & 0o111
    return Entry("file", 0o755 if executable else 0o644, size=member.file_size, open=lambda: wheel.open(member))


def _check_target(tree: Tree, path: str, target: str) -> None:
    resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if resolved not in tree:
        raise BaseImageError(f"/{path} would point to /{resolved}, which the Node wheel does not have")


def _user(base: Tree) -> Tree:
    """The account as `adduser` in the official image's Dockerfile makes it."""
    name, number = recipe.NODE_USER, recipe.NODE_UID
    lines = {
        "etc/passwd": f"{name}:x:{number}:{number}::/{recipe.NODE_HOME}:/bin/sh\n",
        "etc/group": f"{name}:x:{number}:\n",
        "etc/shadow": f"{name}:!:{_DAY}:0:99999:7:::\n",
    }
    tree: Tree = {recipe.NODE_HOME: directory(0o2755, number, number)}
    for path, line in lines.items():
        tree[path] = with_content(base[path], content(base[path]) + line.encode())
    return tree
