//! What is said about an image, and where: SBOMs and provenance, read the way other tools read them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use insta::assert_snapshot;
use serde_json::Value;

use crate::context::{Output, TestContext, bases, skip};

const DOCKERFILE: &str = "FROM node:22.16.0-alpine AS tools
COPY . /tools

FROM alpine:3.23
ARG COLOR=red
ARG API_TOKEN
ENV COLOR=$COLOR
COPY --from=tools /tools /srv
RUN echo $COLOR > /srv/color && echo https://me:hidden-word@host.test/ > /dev/null
";

/// A context with a package that npm has installed, as far as anybody can see.
fn fixture() -> TestContext {
    let context = TestContext::empty();
    context.write("Dockerfile", DOCKERFILE);
    context.write(
        "node_modules/@scope/left/package.json",
        r#"{"name":"@scope/left","version":"1.2.3","license":"MIT"}"#,
    );
    context.write("node_modules/@scope/left/esm/package.json", r#"{"type":"module"}"#);
    context.write(
        "node_modules/right/package.json",
        r#"{"name":"right","version":"2.0.0","license":"Do what you like"}"#,
    );
    context.write(
        "node_modules/.package-lock.json",
        r#"{"name":"srv","lockfileVersion":3,"packages":{"node_modules/@scope/left":{"version":"1.2.3",
        "resolved":"https://registry.npmjs.org/@scope/left/-/left-1.2.3.tgz","integrity":"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="}}}"#,
    );
    context
}

fn build(context: &TestContext, args: &[&str]) -> Output {
    let mut all: Vec<String> = ["build", "--progress", "quiet"].map(str::to_owned).to_vec();
    all.extend(context.base_images());
    all.extend(["--build-arg", "COLOR=blue", "--build-arg", "API_TOKEN=hidden-token"].map(str::to_owned));
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    let output = context.run(&all);
    assert_eq!(output.code, 0, "{output}");
    output
}

/// An OCI layout with what refers to its image.
struct Attested {
    folder: PathBuf,
    index: Value,
}

impl Attested {
    fn open(folder: &Path) -> Self {
        let index = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
        Self { folder: folder.to_owned(), index }
    }

    fn document(&self, digest: &Value) -> Value {
        let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
        serde_json::from_slice(&fs::read(self.folder.join("blobs/sha256").join(hex)).unwrap()).unwrap()
    }

    fn entries(&self) -> &[Value] {
        self.index["manifests"].as_array().unwrap()
    }

    /// The statements that refer to `image`, by the type of their predicate.
    fn statements(&self, image: &str) -> BTreeMap<String, Value> {
        let list = self.document(&self.index["annotations"]["dev.wbuild.referrers"]);
        let mut found = BTreeMap::new();
        for entry in list["manifests"].as_array().unwrap() {
            let manifest = self.document(&entry["digest"]);
            assert_eq!(entry["artifactType"], "application/vnd.in-toto+json");
            assert_eq!(manifest["artifactType"], entry["artifactType"]);
            assert_eq!(manifest["subject"]["digest"], image);
            assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
            let layer = &manifest["layers"][0];
            let statement = self.document(&layer["digest"]);
            let kind = layer["annotations"]["in-toto.io/predicate-type"].as_str().unwrap().to_owned();
            check_statement(&statement, &kind, image);
            found.insert(kind, statement);
        }
        found
    }
}

/// The in-toto specification, "Statement", v1.
fn check_statement(statement: &Value, kind: &str, image: &str) {
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], kind);
    for subject in statement["subject"].as_array().unwrap() {
        assert_eq!(format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()), image);
    }
    if kind == "https://slsa.dev/provenance/v1" {
        check_provenance(&statement["predicate"]);
    }
}

/// The SLSA specification, "Provenance", v1.0: fields, their types, and no others.
fn check_provenance(predicate: &Value) {
    let only = |value: &Value, names: &[&str]| {
        for name in value.as_object().unwrap().keys() {
            assert!(names.contains(&name.as_str()), "`{name}` is none of {names:?}");
        }
    };
    only(predicate, &["buildDefinition", "runDetails"]);
    let definition = &predicate["buildDefinition"];
    only(definition, &["buildType", "externalParameters", "internalParameters", "resolvedDependencies"]);
    assert!(definition["buildType"].as_str().unwrap().contains(':'));
    assert!(definition["externalParameters"].is_object());
    for dependency in definition["resolvedDependencies"].as_array().unwrap() {
        only(
            dependency,
            &["uri", "digest", "name", "downloadLocation", "mediaType", "content", "annotations"],
        );
        let digests = dependency["digest"].as_object().unwrap();
        assert!(!digests.is_empty());
        assert!(digests.values().all(|hex| hex.as_str().unwrap().chars().all(|c| c.is_ascii_hexdigit())));
    }
    only(&predicate["runDetails"], &["builder", "metadata", "byproducts"]);
    assert!(predicate["runDetails"]["builder"]["id"].as_str().unwrap().contains(':'));
}

/// The packages of an SPDX document by their purl.
fn packages(document: &Value) -> BTreeMap<String, Value> {
    let of = |package: &Value| {
        let purl = package["externalRefs"][0]["referenceLocator"].as_str()?;
        Some((purl.to_owned(), package.clone()))
    };
    document["packages"].as_array().unwrap().iter().filter_map(of).collect()
}

const SPDX: &str = "https://spdx.dev/Document";
const CYCLONEDX: &str = "https://cyclonedx.org/bom";
const SLSA: &str = "https://slsa.dev/provenance/v1";

#[test]
fn an_image_and_what_is_said_about_it() {
    if bases().is_none() {
        return;
    }
    let context = fixture();
    let plain = build(&context, &["-t", "srv:1", "-o", "type=oci,dest=../plain,tar=false", "."]).stdout;
    let flags = ["--sbom", "--sbom=format=cyclonedx", "--provenance=mode=max", "-t", "srv:1"];
    let at = |out: &'static str| [&flags[..], &["-o", out, "."]].concat();
    let said = build(&context, &at("type=oci,dest=../out,tar=false")).stdout;
    assert_eq!(said, plain, "the image changed");
    let image = said.trim();
    let layout = Attested::open(&context.folder().join("out"));
    let [first, list] = layout.entries() else { panic!("{}", layout.index) };
    assert_eq!(first["digest"], image);
    assert_eq!(
        list["annotations"]["org.opencontainers.image.ref.name"],
        image.replace(':', "-"),
        "the fallback tag of the distribution specification"
    );
    let statements = layout.statements(image);
    assert_eq!(statements.keys().collect::<Vec<_>>(), [CYCLONEDX, SLSA, SPDX]);
    let names: Vec<&Value> = statements.values().map(|statement| &statement["subject"][0]["name"]).collect();
    assert!(names.iter().all(|name| *name == "pkg:docker/srv@1?platform=linux%2Famd64"), "{names:?}");

    let found = packages(&statements[SPDX]["predicate"]);
    let left = &found["pkg:npm/%40scope/left@1.2.3"];
    assert_eq!(left["licenseDeclared"], "MIT");
    assert_eq!(left["checksums"][0]["checksumValue"], "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    assert_eq!(left["downloadLocation"], "https://registry.npmjs.org/@scope/left/-/left-1.2.3.tgz");
    assert_eq!(left["sourceInfo"], "found in the image: /srv/node_modules/@scope/left");
    let right = found["pkg:npm/right@2.0.0"]["licenseDeclared"].as_str().unwrap();
    assert!(right.starts_with("LicenseRef-Do-what-you-like-"), "{right}");
    let of_system = found.iter().filter(|(purl, _)| purl.starts_with("pkg:apk/alpine/"));
    let in_base = |package: &Value| package["comment"].as_str().unwrap().contains("base-image: true");
    let of_system: Vec<bool> = of_system.map(|(_, package)| in_base(package)).collect();
    assert!(of_system.len() > 10 && of_system.iter().all(|in_base| *in_base));
    assert!(found.keys().any(|purl| purl.starts_with("pkg:apk/alpine/busybox@")), "{found:?}");
    // The tools of a stage that nothing was taken of but its files are not in the image.
    assert!(!found.keys().any(|purl| purl.starts_with("pkg:generic/node")));

    provenance(&statements[SLSA]["predicate"], &context);

    // Said twice, and by another machine at another place: the same bytes.
    let again = build(&context, &at("type=oci,dest=../again.tar"));
    assert_eq!(again.stdout, said);
    let other = fixture();
    build(&other, &at("type=oci,dest=../out,tar=false"));
    let names = |folder: &Path| {
        let names = fs::read_dir(folder.join("blobs/sha256")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&context.folder().join("out")), names(&other.folder().join("out")));
    assert_eq!(
        fs::read(context.folder().join("out/index.json")).unwrap(),
        fs::read(other.folder().join("out/index.json")).unwrap()
    );

    others_read_it(&context, image);
    let sbom = &statements[SPDX]["predicate"];
    let bom = &statements[CYCLONEDX]["predicate"];
    validated(&context, sbom, bom);
}

fn provenance(predicate: &Value, context: &TestContext) {
    let definition = &predicate["buildDefinition"];
    assert_eq!(definition["buildType"], "urn:wbuild:build:dockerfile:v1");
    let parameters = &definition["externalParameters"];
    assert_eq!(parameters["buildArgs"]["COLOR"], "blue");
    assert_eq!(parameters["buildArgs"]["API_TOKEN"], "(redacted)");
    assert_eq!(parameters["dockerfile"]["path"], "Dockerfile");
    assert_eq!(definition["internalParameters"]["isolation"], "overlay");
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    let uris: Vec<&str> = dependencies.iter().filter_map(|entry| entry["uri"].as_str()).collect();
    assert_eq!(
        uris,
        [
            "pkg:docker/alpine@3.23?platform=linux%2Famd64",
            "pkg:docker/node@22.16.0-alpine?platform=linux%2Famd64"
        ]
    );
    assert!(dependencies.iter().any(|entry| entry["name"] == "context"), "{dependencies:?}");
    let steps = definition["internalParameters"]["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(steps.iter().all(|step| step["preimage"][0]["name"] == "operation"));
    let text = predicate.to_string();
    for hidden in ["hidden-token", "hidden-word", context.folder().to_str().unwrap()] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

/// Tools that know nothing of referrers see the image.
fn others_read_it(context: &TestContext, image: &str) {
    if Command::new("skopeo").arg("--version").output().is_err() {
        return skip("skopeo is not installed");
    }
    build(context, &["--sbom", "-o", "type=oci,dest=../nameless,tar=false", "."]);
    build(context, &["--sbom", "-t", "srv:1", "-o", "type=docker,dest=../docker.tar", "."]);
    for place in ["oci:out:1", "oci:nameless", "oci-archive:again.tar", "oci-archive:again.tar:1"] {
        let output =
            Command::new("skopeo").args(["inspect", place]).current_dir(context.folder()).output().unwrap();
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["Digest"], image, "{place}");
    }
    // `docker load` gets the image and nothing else.
    let mut archive = tar::Archive::new(fs::File::open(context.folder().join("docker.tar")).unwrap());
    let blobs = archive.entries().unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().unwrap().starts_with("blobs/sha256")
            && entry.as_ref().unwrap().header().entry_type().is_file()
    });
    let layout = Attested::open(&context.folder().join("plain"));
    let manifest = layout.document(&layout.entries()[0]["digest"]);
    assert_eq!(blobs.count(), 2 + manifest["layers"].as_array().unwrap().len());
}

/// Reads an SPDX and a CycloneDX document as their own projects' tools do.
const VALIDATE: &str = r#"
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

found = [m.validation_message for m in validate_full_spdx_document(parse_file(sys.argv[1]))]
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[2]).read())
found += [] if error is None else [repr(error)]
sys.exit("\n".join(found) or 0)
"#;

/// A Python with both tools; made once for all tests, and kept.
fn validators() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sbom-validators-1");
            let python = folder.join("bin/python");
            let ready = folder.join("ready");
            if !ready.exists() {
                let run = |program: &Path, args: &[&str]| {
                    let output = Command::new(program).args(args).output();
                    output.is_ok_and(|output| output.status.success())
                };
                let made = run(Path::new("python3"), &["-m", "venv", folder.to_str().unwrap()])
                    && run(
                        &python,
                        &[
                            "-m",
                            "pip",
                            "install",
                            "-q",
                            "spdx-tools==0.8.5",
                            "cyclonedx-python-lib[json-validation]==11.12.0",
                        ],
                    );
                if !made {
                    skip("spdx-tools and cyclonedx-python-lib cannot be installed here");
                    return None;
                }
                fs::write(ready, "").unwrap();
            }
            Some(python)
        })
        .as_ref()
}

fn validated(context: &TestContext, spdx: &Value, cyclonedx: &Value) {
    let Some(python) = validators() else { return };
    let file = |name: &str, document: &Value| {
        let path = context.folder().join(name);
        fs::write(&path, document.to_string()).unwrap();
        path
    };
    let (spdx, cyclonedx) = (file("valid.spdx.json", spdx), file("valid.cdx.json", cyclonedx));
    let output = Command::new(python).args(["-c", VALIDATE]).arg(spdx).arg(cyclonedx).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_index_as_docker_buildx_has_it() {
    if bases().is_none() {
        return;
    }
    let context = fixture();
    let plain = build(&context, &["."]).stdout;
    let args = ["--sbom", "--provenance", "--attest-index", "-t", "srv:1", "--metadata-file", "../metadata"];
    let said = build(&context, &[&args[..], &["-o", "type=oci,dest=../out,tar=false", "."]].concat()).stdout;
    assert_ne!(said, plain);
    let layout = Attested::open(&context.folder().join("out"));
    let [only] = layout.entries() else { panic!("{}", layout.index) };
    assert_eq!(only["digest"], said.trim());
    let index = layout.document(&only["digest"]);
    let [image, attestation] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
    assert_eq!(image["digest"], plain.trim());
    assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    assert_eq!(attestation["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attestation["platform"]["architecture"], "unknown");
    let manifest = layout.document(&attestation["digest"]);
    let kinds: Vec<&str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            let kind = layer["annotations"]["in-toto.io/predicate-type"].as_str().unwrap();
            check_statement(&layout.document(&layer["digest"]), kind, plain.trim());
            kind
        })
        .collect();
    assert_eq!(kinds, [SPDX, SLSA]);
    let metadata: Value =
        serde_json::from_slice(&fs::read(context.folder().join("metadata")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], said.trim());
    check_provenance(&metadata["buildx.build.provenance"]);
    // Without full provenance nothing of what was typed is told.
    assert!(!metadata["buildx.build.provenance"].to_string().contains("COLOR"));
    // It is one to build upon, too.
    context.write("again", "FROM base\nCOPY Dockerfile /again\n");
    let base = format!("base=oci-layout://{}", context.folder().join("out").display());
    build(&context, &["-f", "again", "--build-context", &base, "."]);
    if Command::new("skopeo").arg("--version").output().is_ok() {
        let output = Command::new("skopeo")
            .args(["inspect", "oci:out:1"])
            .current_dir(context.folder())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn documents_as_files() {
    if bases().is_none() {
        return;
    }
    let context = fixture();
    let plain = build(&context, &["-o", "type=oci,dest=../plain,tar=false", "."]).stdout;
    let args = [
        "--sbom=dest=../a.json",
        "--attest=type=sbom,format=cyclonedx,dest=../b.json",
        "--provenance",
        "mode=max,builder-id=https://ci.test/runner,dest=../c.json",
    ];
    let said = build(&context, &[&args[..], &["-o", "type=oci,dest=../out,tar=false", "."]].concat()).stdout;
    assert_eq!(said, plain);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(context.folder().join(name)).unwrap()).unwrap()
    };
    // They are where they were asked for and nowhere else.
    assert_eq!(read("out/index.json"), read("plain/index.json"));
    assert_eq!(read("a.json")["spdxVersion"], "SPDX-2.3");
    assert_eq!(read("b.json")["bomFormat"], "CycloneDX");
    let statement = read("c.json");
    check_statement(&statement, SLSA, plain.trim());
    assert_eq!(statement["predicate"]["runDetails"]["builder"]["id"], "https://ci.test/runner");

    // Beside files they are statements about each of them.
    context.write("small", "FROM scratch\nCOPY Dockerfile /a\n");
    build(&context, &["--sbom", "--provenance", "-f", "small", "-o", "../files", "."]);
    let statement = read("files/provenance.json");
    assert_eq!(statement["subject"].as_array().unwrap().len(), 1);
    assert_eq!(statement["subject"][0]["name"], "a");
    assert_eq!(read("files/sbom.spdx.json")["predicateType"], SPDX);
}

#[test]
fn an_app_of_a_workspace() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::small();
    let plain = context.build(&[]).digest().to_owned();
    let said = context.build(&["--sbom", "--provenance=mode=max"]);
    assert_eq!(said.digest(), plain);
    assert_eq!(said.steps("built"), Vec::<&str>::new());
    let layout = Attested::open(&context.path(".wbuild/image/web"));
    assert_eq!(layout.entries().len(), 1, "readers that take the only image go on doing so");
    let statements = layout.statements(&plain);
    assert_eq!(statements[SPDX]["predicate"]["name"], "web");
    let definition = &statements[SLSA]["predicate"]["buildDefinition"];
    assert_eq!(definition["buildType"], "urn:wbuild:build:image:v1");
    let parameters = &definition["externalParameters"];
    assert_eq!((&parameters["app"], &parameters["target"]), (&"web".into(), &"runner".into()));
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    assert!(dependencies.iter().any(|entry| entry["name"] == "pnpm-lock.yaml"), "{dependencies:?}");
    // And `wbuild run` takes it as it was.
    let text = fs::read_to_string(context.path(".wbuild/image/web/index.json")).unwrap();
    assert!(text.contains("dev.wbuild.referrers"));
}

#[test]
fn flags_that_make_no_sense() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\n");
    assert_snapshot!(context.refused(&["build", "--sbom=generator=docker/scout", "."]), @"
    exit 2
    -- stderr
    error: `--sbom` starts no generator: wbuild reads the packages of an image itself
    hint: leave `generator` out
    ");
    assert_snapshot!(context.refused(&["build", "--provenance=version=v0.2", "."]), @"
    exit 2
    -- stderr
    error: `--provenance` knows no version `v0.2` of provenance
    hint: SLSA provenance is written as version v1
    ");
    assert_snapshot!(context.refused(&["build", "--sbom=mode=max", "."]), @"
    exit 2
    -- stderr
    error: `mode=max` means nothing in --sbom
    hint: there are true, false, format=spdx, format=cyclonedx and dest=FILE
    ");
    assert_snapshot!(context.refused(&["build", "--attest", "sbom", "."]), @"
    exit 2
    -- stderr
    error: `--attest sbom` does not say of which type
    hint: for example --attest type=sbom or --attest type=provenance,mode=max
    ");
    assert_snapshot!(context.refused(&["build", "--sbom", "--attest", "type=sbom", "."]), @"
    exit 2
    -- stderr
    error: an SBOM in the format spdx of the image is asked for twice
    hint: ask once, or write one of them to a file: dest=FILE
    ");
    assert_snapshot!(context.refused(&["build", "--sbom=dest=nowhere/sbom.json", "."]), @"
    exit 1
    -- stderr
    error: cannot write `nowhere/sbom.json`
      caused by: No such file or directory (os error 2)
    ");
}

/// Three packages, in a database that rpm 4.18 has written.
const RPM: &[u8] = include_bytes!("../../crates/attest/tests/fixtures/rpmdb.sqlite");

/// The SBOM of an image on nothing with these files; a name that ends in `.sqlite` is the database.
fn sbom_on_scratch(files: &[(&str, &[u8])]) -> Value {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nCOPY root /\n");
    for (name, bytes) in files {
        let path = context.path("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let args = ["build", "--progress", "quiet", "--sbom", "-o", "../files", "."];
    let output = context.run(&args);
    assert_eq!(output.code, 0, "{output}");
    let text = fs::read(context.folder().join("files/sbom.spdx.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()
}

#[test]
fn packages_of_rpm() {
    let os = b"ID=fedora\nVERSION_ID=42\n".as_slice();
    for folder in ["usr/lib/sysimage/rpm", "var/lib/rpm"] {
        let place = format!("{folder}/rpmdb.sqlite");
        let document = sbom_on_scratch(&[("etc/os-release", os), (&place, RPM)]);
        let document = document.get("predicate").unwrap_or(&document);
        let found = packages(document);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            [
                "pkg:rpm/fedora/alpha@1.2.3-4.el9?arch=noarch&distro=fedora-42&upstream=alpha-1.2.3-4.el9.src.rpm",
                "pkg:rpm/fedora/beta@2.0~rc1-1?arch=x86_64&distro=fedora-42&epoch=3&upstream=beta-2.0~rc1-1.src.rpm",
                "pkg:rpm/fedora/gamma@7-1?arch=noarch&distro=fedora-42&upstream=gamma-7-1.src.rpm",
            ]
        );
        let alpha = found.values().next().unwrap();
        assert_eq!(alpha["licenseDeclared"], "MIT");
        assert_eq!(alpha["supplier"], "Organization: Some Vendor");
        assert_eq!(alpha["sourceInfo"], format!("found in the image: /{place}"));
        assert_eq!(document.get("comment"), None);
    }
}

#[test]
fn what_is_not_read_of_rpm_is_said() {
    let half = &RPM[..RPM.len() / 2];
    for (name, bytes, said) in [
        ("var/lib/rpm/rpmdb.sqlite", half, "packages of rpm may be missing here: not all of its database"),
        ("var/lib/rpm/Packages.db", b"no".as_slice(), "packages of rpm may be missing here"),
        ("var/lib/rpm/Packages", b"x".as_slice(), "/var/lib/rpm/Packages is a database of Berkeley DB"),
    ] {
        let document = sbom_on_scratch(&[(name, bytes)]);
        let document = document.get("predicate").unwrap_or(&document);
        assert!(document["comment"].as_str().unwrap().contains(said), "{document}");
    }
}

/// `attestation-prefix`, `platform-split` and `source-date-epoch` of `type=local` and `type=tar`, as BuildKit has them.
#[test]
fn documents_lie_beside_files_of_folders_and_tars() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nCOPY a /dir/a\n");
    context.write("a", "a");
    let form = "attestation-prefix=x-,platform-split=true,source-date-epoch=7";
    let args = |kind: &str| format!("type={kind},dest=../{kind},{form}");
    let output = context.run(&[
        "build",
        "--progress",
        "quiet",
        "--sbom",
        "--provenance",
        "-o",
        &args("local"),
        "-o",
        &args("tar"),
        ".",
    ]);
    assert_eq!(output.code, 0, "{output}");
    let file = fs::File::open(context.folder().join("tar")).unwrap();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(file).entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 7);
        let path = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        found.insert(path, text);
    }
    let top = "linux_amd64";
    assert_eq!(
        found.keys().map(String::as_str).collect::<Vec<_>>(),
        ["", "dir/", "dir/a", "x-provenance.json", "x-sbom.spdx.json"].map(|name| format!("{top}/{name}"))
    );
    for (path, text) in &found {
        let here = context.folder().join("local").join(path);
        assert!(path.ends_with('/') || fs::read_to_string(&here).unwrap() == *text, "{path}");
        assert_eq!(fs::metadata(&here).unwrap().mtime(), 7, "{path}");
    }
    let sbom: Value = serde_json::from_str(&found[&format!("{top}/x-sbom.spdx.json")]).unwrap();
    assert_eq!(sbom["subject"][0]["name"], "dir/a");
    // Without any of that, as ever.
    let plain = context.run(&["build", "--progress", "quiet", "-o", "../plain", "."]);
    assert_eq!(plain.code, 0, "{plain}");
    assert!(context.folder().join("plain/dir/a").is_file());
}

#[test]
fn what_takes_no_documents_is_said() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let build = |args: &[&str]| context.run(&[&["build", "--progress", "plain"], args, &["."]].concat());
    for (output, what) in [("type=docker,dest=../x.tar", "a docker archive"), ("type=cacheonly", "the cache")]
    {
        let said = build(&["--sbom", "-o", output]);
        let warned = format!("{what} takes no SBOM and no provenance: they are not in it");
        assert!(said.code == 0 && said.stderr.contains(&warned), "{said}");
    }
    for args in [
        ["--sbom=dest=../sbom", "-o", "type=docker,dest=../x.tar"],
        ["--sbom", "-o", "type=oci,dest=../o.tar"],
    ] {
        let said = build(&args);
        assert!(said.code == 0 && !said.stderr.contains("takes no SBOM"), "{said}");
    }
}
