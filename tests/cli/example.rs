//! The example monorepo, from nothing to a running image: pnpm, Next.js and Prisma as they are, on the base image of
//! `scripts/base-image`.
//!
//! One test: the cold build takes by far the longest, and everything after it wants its cache.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use insta::{assert_json_snapshot, assert_snapshot};
use serde_json::{Value, json};
use wbuild_testkit::HttpServer;

use super::docker_registry::Registry;
use super::sharing_servers::{Kept, keep};
use crate::context::{Build, TestContext, as_nobody, base_layout, bases, skip};
use crate::layout::Layout;

const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/buildspec/web.toml");
const IMAGE: &str = ".wbuild/image/web";

struct Example {
    context: TestContext,
}

impl Example {
    fn new() -> Self {
        let context =
            TestContext::example().online().env("KEY", "yxPbYvSM7LFBiOMMwOV3Gm7IeqyFR1E0BXI8P2a3vMc=");
        let keys = json!({
            "previewModeId": "0123456789abcdef0123456789abcdef",
            "previewModeSigningKey": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            "previewModeEncryptionKey": "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100",
            "expireAt": 4_102_444_800_000_u64,
        });
        fs::write(context.folder().join("preview"), keys.to_string()).unwrap();
        Self { context }
    }

    fn build(&self, args: &[&str]) -> Build {
        let mut all = vec!["--file", SPEC, "--secret", "id=next-server-actions-key,env=KEY"];
        all.extend(["--secret", "id=next-preview-keys,src=../preview"]);
        all.extend(args);
        self.context.build(&all)
    }

    /// Builds again after an edit that concerns nothing.
    fn nothing_runs(&self, digest: &str, what: &str) {
        let again = self.build(&[]);
        assert_eq!((again.digest(), again.steps("built")), (digest, vec![]), "{what}");
    }

    fn image(&self) -> Layout {
        Layout::open(&self.context.path(IMAGE))
    }
}

#[test]
fn the_example_monorepo() {
    if std::env::var("WBUILD_TEST_E2E").is_ok_and(|value| value == "0") {
        return skip("WBUILD_TEST_E2E is 0");
    }
    let Some(_) = bases() else { return };
    let example = Example::new();
    let digest = cold(&example);
    imported_unchanged(&example, &digest);
    let edited = edits(&example, &digest);
    imported_edited(&example, &edited);
    warm_and_cold(&example, &edited);
    what_concerns_nothing(&example, &edited);
    image(&example);
    runs(&example);
    other_tools(&example);
    database(&example);
    targets(&example);
}

fn cold(example: &Example) -> String {
    let cold = example.build(&[&format!("--cache-to=type=local,dest={}", cache_of(example).display())]);
    let digest = cold.digest().to_owned();
    assert_snapshot!(cold.steps("built").join("\n"), @"
    [base] npm install -g turbo@2.11.11 pnpm@10.18.2
    [base] apk add --no-cache libc6-compat python3 make g++ openssl
    [deps] pnpm install
    [builder] @repo/database#generate
    [builder] //#content
    [builder] web#build
    ");
    assert_snapshot!(cold.warnings().join("\n"), @"");
    example.nothing_runs(&digest, "nothing changed");
    digest
}

/// The remote cache that the cold build fills.
fn cache_of(example: &Example) -> PathBuf {
    example.context.folder().join("cache")
}

/// Another machine, which has nothing but that cache: in a folder, and on a web server.
fn imported_unchanged(example: &Example, digest: &str) {
    let server = served(&cache_of(example));
    let places = [
        format!("type=local,src={}", cache_of(example).display()),
        format!("type=http,url={}", server.url("")),
    ];
    for place in places {
        let imported = Example::new().build(&[&format!("--cache-from={place}")]);
        assert_eq!((imported.digest(), imported.steps("built")), (digest, vec![]), "{place}");
        assert_eq!(imported.warnings(), Vec::<&str>::new(), "{place}");
    }
}

/// The same with the edit that was built here: the task runs on what was imported, and writes what it wrote here.
fn imported_edited(example: &Example, edited: &str) {
    let server = served(&cache_of(example));
    let other = Example::new();
    edit_a_page(&other);
    let built = other.build(&[&format!("--cache-from=type=http,url={}", server.url(""))]);
    assert_eq!((built.digest(), built.steps("built")), (edited, vec!["[builder] web#build"]));
}

fn served(folder: &Path) -> HttpServer {
    let kept = Kept::default();
    for kind in ["ac", "cas"] {
        for entry in fs::read_dir(folder.join(kind)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("/{kind}/{}", path.file_name().unwrap().to_string_lossy());
            kept.lock().unwrap().insert(name, fs::read(&path).unwrap());
        }
    }
    HttpServer::start(move |seen| keep(&kept, seen)).unwrap()
}

fn edit_a_page(example: &Example) {
    example.context.edit("apps/web/src/app/page.tsx", "<p>Short courses on", "<p>Brief lessons in");
}

/// An edit of equal length, with Next's cache kept: it must appear in the page all the same.
fn edits(example: &Example, cold: &str) -> String {
    edit_a_page(example);
    let edited = example.build(&[]);
    assert_eq!(edited.steps("built"), ["[builder] web#build"]);
    assert_ne!(edited.digest(), cold);
    let pages = example
        .image()
        .texts(&|path| path.starts_with("app/apps/web/.next/server/app/") && path.ends_with(".html"));
    assert!(pages.contains("<p>Brief lessons in") && !pages.contains("<p>Short courses on"));
    edited.digest().to_owned()
}

/// What Next.js writes with its cache of an earlier build, and without any (decision 14): the build names the files that
/// differ, and there is none.
fn warm_and_cold(example: &Example, warm: &str) {
    let mounts = example.context.state().join("mounts");
    fs::rename(&mounts, example.context.folder().join("mounts")).unwrap();
    let cold = example.build(&["--no-cache"]);
    assert!(cold.steps("built").contains(&"[builder] web#build"), "{}", cold.output);
    assert_snapshot!(cold.warnings().join("\n"), @"");
    assert_eq!(cold.digest(), warm);
}

fn what_concerns_nothing(example: &Example, digest: &str) {
    let context = &example.context;
    context.edit("apps/admin/package.json", "tsc --watch", "tsc --watch --pretty");
    example.nothing_runs(digest, "a manifest outside of the closure");
    context.write("apps/admin/src/server.ts", "export {};\n");
    context.write("packages/email/src/new.ts", "export {};\n");
    example.nothing_runs(digest, "packages outside of the closure");
    context.write("README.md", "# Another readme\n");
    context.write("apps/web/README.md", "# Another readme\n");
    example.nothing_runs(digest, "readmes");
    let page = context.path("apps/web/src/app/page.tsx");
    fs::set_permissions(&page, fs::Permissions::from_mode(0o664)).unwrap();
    let text = fs::read(&page).unwrap();
    fs::write(&page, text).unwrap();
    example.nothing_runs(digest, "a mode that git does not record, and a time");
    for path in [
        "node_modules/.modules.yaml",
        "apps/web/node_modules/next/package.json",
        "apps/web/.next/BUILD_ID",
        "apps/web/.turbo/turbo-build.log",
        "apps/web/src/generated/courses.json",
        "packages/database/src/generated/client.ts",
        "apps/web/next-env.d.ts",
        ".env.local",
    ] {
        context.write(path, "{}\n");
    }
    example.nothing_runs(digest, "an install and a build by hand");

    context.edit("packages/ui/package.json", r#""typecheck": "tsc""#, r#""typecheck": "tsc --pretty""#);
    let installed = example.build(&["--target", "deps", "--output", "type=oci,dest=../deps,tar=false"]);
    installed.digest();
    assert_eq!(installed.steps("built"), [""; 0], "a script that an install does not read");
    context.edit("packages/ui/package.json", "tsc --pretty", "tsc");
}

fn image(example: &Example) {
    let image = example.image();
    let config = image.config();
    assert_json_snapshot!(config["config"], @r#"
    {
      "Cmd": [
        "node",
        "apps/web/server.js"
      ],
      "Entrypoint": [
        "docker-entrypoint.sh"
      ],
      "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "NODE_VERSION=22.16.0",
        "HOSTNAME=0.0.0.0",
        "NEXT_TELEMETRY_DISABLED=1",
        "NODE_ENV=production",
        "PORT=3000"
      ],
      "ExposedPorts": {
        "3000/tcp": {}
      },
      "Healthcheck": {
        "Interval": 30000000000,
        "Retries": 3,
        "StartPeriod": 40000000000,
        "Test": [
          "CMD",
          "node",
          "-e",
          "require('http').get(`http://127.0.0.1:${process.env.PORT||3000}/api/health`, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"
        ],
        "Timeout": 3000000000
      },
      "Labels": {
        "org.opencontainers.image.description": "A small site with short courses about language models",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": "AI Whisperers"
      },
      "User": "1001:1001",
      "WorkingDir": "/app"
    }
    "#);
    let base = Layout::open(&base_layout("node:22.16.0-alpine"));
    let (own, of_base) = (image.layers(), base.layers());
    assert_eq!(own[..of_base.len()], of_base[..], "the base's layers pass through");
    let history = config["history"].as_array().unwrap().iter().filter_map(|row| row["created_by"].as_str());
    let own: Vec<&str> = history.skip_while(|row| !row.starts_with("RUN addgroup")).collect();
    assert_snapshot!(own.join("\n"), @r#"
    RUN addgroup -g 1001 nodejs && adduser -u 1001 -G nodejs nextjs
    COPY links to /app
    COPY modules to /app
    COPY workspace packages to /app
    COPY application to /app
    WORKDIR /app
    ENV HOSTNAME=0.0.0.0
    ENV NEXT_TELEMETRY_DISABLED=1
    ENV NODE_ENV=production
    ENV PORT=3000
    LABEL org.opencontainers.image.description=A small site with short courses about language models
    LABEL org.opencontainers.image.licenses=Apache-2.0
    LABEL org.opencontainers.image.title=AI Whisperers
    USER 1001:1001
    EXPOSE 3000/tcp
    HEALTHCHECK CMD ["node","-e","require('http').get(`http://127.0.0.1:${process.env.PORT||3000}/api/health`, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
    CMD ["node","apps/web/server.js"]
    "#);
    assert!(image.size() < 500_000_000, "{} bytes", image.size());
    let files = image.files();
    for tool in [
        "usr/local/lib/node_modules/pnpm",
        "usr/local/lib/node_modules/turbo",
        "usr/local/bin/pnpm",
        "app/node_modules/.pnpm/typescript@5.9.3",
        "app/node_modules/.pnpm/turbo@2.11.11",
    ] {
        assert!(!files.contains_key(tool), "{tool}");
    }
    assert!(!image.text("lib/apk/db/installed").contains("\nP:g++\n"), "what the toolchain lines added");
    let (musl, glibc): (Vec<&String>, Vec<&String>) = files
        .keys()
        .filter(|path| path.contains(".pnpm/@img+sharp-") && path.ends_with(".node"))
        .partition(|path| path.contains("musl"));
    assert!(!musl.is_empty() && glibc.is_empty(), "{musl:?} {glibc:?}");
    assert_eq!(files["app"], "0755 0:0 directory");
    assert_eq!(files["app/apps/web/server.js"], "0644 1001:1001 regular");
}

fn runs(example: &Example) {
    let context = &example.context;
    let healthy = context.run(&["run", IMAGE, "--until-healthy", "--publish", "0:3000"]);
    assert!(healthy.code == 0 && healthy.stderr.contains("\nhealthy after "), "{healthy}");
    let said = context.run(&[
        "run",
        IMAGE,
        "--network",
        "none",
        "--",
        "/bin/sh",
        "-c",
        "id; pwd; which pnpm turbo g++ python3; test -w /app || echo root owns /app",
    ]);
    assert_snapshot!(said, @"
    exit 0
    -- stdout
    uid=1001(nextjs) gid=1001(nodejs) groups=1001(nodejs)
    /app
    root owns /app
    ");
}

fn other_tools(example: &Example) {
    let layout = example.context.path(IMAGE);
    let installed = |name: &str| {
        let found = Command::new(name).arg("--version").output().is_ok();
        if !found {
            skip(&format!("{name} is not installed"));
        }
        found
    };
    if installed("skopeo") {
        let output =
            Command::new("skopeo").args(["inspect", &format!("oci:{}", layout.display())]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["Layers"], json!(example.image().layers()));
    }
    if installed("umoci") && rustix::process::getuid().is_root() {
        let tag = format!("{}:test", tagged(example).display());
        let bundle = example.context.folder().join("bundle");
        let output = Command::new("umoci").args(["unpack", "--image", &tag]).arg(&bundle).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(bundle.join("rootfs/app/apps/web/server.js").exists());
        let runtime: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
        assert_eq!(runtime["process"]["user"]["uid"], 1001);
        assert_eq!(runtime["process"]["args"], json!(["docker-entrypoint.sh", "node", "apps/web/server.js"]));
        other_runtimes(&bundle, runtime);
    }
}

/// The image under a tag: as it comes back from a registry, where there is one.
fn tagged(example: &Example) -> PathBuf {
    let layout = example.context.folder().join("tagged");
    let registry = example.context.folder().join("registry");
    fs::create_dir_all(&registry).unwrap();
    let Some(registry) = Registry::start(&registry, false, None) else {
        let output = ["--tag", "example/web:test", "--output", "type=oci,dest=../tagged,tar=false"];
        example.build(&output).digest();
        return layout;
    };
    let name = format!("localhost:{}/example/web:test", registry.port);
    let pushed = example.context.run(&["push", IMAGE, &name]);
    assert_eq!(pushed.code, 0, "{pushed}");
    let from = format!("docker://{name}");
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &from])
        .arg(format!("oci:{}:test", layout.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], json!(pushed.stdout.trim()));
    layout
}

/// Another container runtime starts the image, and its health endpoint answers there.
fn other_runtimes(bundle: &Path, mut config: Value) {
    const PROBE: &str = "require('http').get('http://127.0.0.1:3000/api/health', \
        (answer) => process.exit(answer.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))";
    config["process"]["terminal"] = json!(false);
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "cgroup");
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    for name in ["crun", "runc"] {
        let id = format!("wbuild-test-{}", std::process::id());
        let mut command = Command::new(name);
        command.args(["run", "--bundle"]).arg(bundle).arg(&id).stdin(Stdio::null());
        let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else { continue };
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("Ready") && stdout.read_line(&mut said).unwrap() > 0 {}
        let healthy = said.contains("Ready")
            && Command::new(name).args(["exec", &id, "node", "-e", PROBE]).status().unwrap().success();
        let _ = Command::new(name).args(["kill", &id, "KILL"]).output();
        child.wait().unwrap();
        let _ = Command::new(name).args(["delete", "--force", &id]).output();
        if said.contains("Ready") {
            assert!(healthy, "{name} started it, and it is not healthy:\n{said}");
            return;
        }
        let mut reason = String::new();
        child.stderr.take().unwrap().read_to_string(&mut reason).unwrap();
        skip(&format!("{name} does not start anything here: {}", reason.trim()));
    }
}

/// Its process dies with the test.
struct Server(Child);

impl Server {
    /// Starts a program and waits until it says `text` on the stream that `of` picks.
    fn start<R: Read>(mut command: Command, of: impl FnOnce(&mut Child) -> Option<R>, text: &str) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let stream = of(&mut child).unwrap();
        let server = Self(child);
        let mut said = String::new();
        let mut reader = BufReader::new(stream);
        while !said.contains(text) {
            assert!(reader.read_line(&mut said).unwrap() > 0, "it ended without `{text}`:\n{said}");
        }
        server
    }

    fn stop(&self, signal: rustix::process::Signal) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL's fast shutdown, and ctrl-C for everything else.
        self.stop(rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `/api/leads` writes to PostgreSQL and reads it back.
fn database(example: &Example) {
    if [("initdb", "--version"), ("postgres", "--version"), ("psql", "--version")].iter().any(
        |(name, flag)| !Command::new(name).arg(flag).output().is_ok_and(|output| output.status.success()),
    ) {
        return skip("PostgreSQL is not installed, so `/api/leads` is not asked");
    }
    let context = &example.context;
    let Some(data) = data_folder(context.folder()) else { return };
    let cluster = data.join("cluster");
    let mut initdb = as_nobody("initdb");
    initdb.arg("-D").arg(&cluster).args(["-U", "postgres", "-A", "trust", "--no-sync", "--locale=C"]);
    let made = initdb.current_dir(&data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = free_port();
    let mut postgres = as_nobody("postgres");
    postgres
        .arg("-D")
        .arg(&cluster)
        .args(["-p", &port.to_string(), "-F", "-h", "127.0.0.1", "-k"])
        .arg(&data);
    postgres.current_dir(&data).stdout(Stdio::null()).stderr(Stdio::piped());
    let _postgres = Server::start(postgres, |child| child.stderr.take(), "ready to accept connections");
    let address = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    for migration in migrations(&context.path("packages/database/prisma/migrations")) {
        let applied = Command::new("psql")
            .args(["-q", "-v", "ON_ERROR_STOP=1", &address, "-f"])
            .arg(migration)
            .output()
            .unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }

    let web = free_port();
    let mut site = context.command(&[
        "run",
        IMAGE,
        "--network",
        "host",
        "--env",
        &format!("PORT={web}"),
        "--env",
        &format!("DATABASE_URL={address}"),
    ]);
    site.stdout(Stdio::piped()).stderr(Stdio::null());
    let _site = Server::start(site, |child| child.stdout.take(), "Ready in");
    let page = http(web, "GET", "/", "");
    assert!(page.contains("200 OK") && page.contains("<p>Brief lessons in"), "{page}");
    let slug = page.split("/courses/").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let lead = json!({ "name": "Ada", "email": "ada@example.com", "course": slug }).to_string();
    let created = http(web, "POST", "/api/leads", &lead);
    assert!(created.contains("201 Created"), "{created}");
    let listed = http(web, "GET", "/api/leads", "");
    assert!(listed.contains("200 OK") && listed.contains("ada@example.com"), "{listed}");
}

/// A folder that the unprivileged user of [`as_nobody`] can write to.
fn data_folder(folder: &Path) -> Option<PathBuf> {
    let data = folder.join("postgres");
    fs::create_dir(&data).unwrap();
    if rustix::process::getuid().is_root() {
        fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
        if !as_nobody("true").status().is_ok_and(|status| status.success()) {
            skip("setpriv cannot become a plain user here, and PostgreSQL does not run as root");
            return None;
        }
    }
    Some(data)
}

fn migrations(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("migration.sql")).collect();
    found.retain(|path| path.exists());
    found.sort();
    found
}

fn http(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn targets(example: &Example) {
    for (target, has, lacks) in [
        ("base", "usr/local/lib/node_modules/pnpm", "app/node_modules"),
        ("deps", "app/node_modules/.pnpm", "app/apps/web/next.config.ts"),
        ("builder", "app/apps/web/.next/standalone/apps/web/server.js", "app/apps/admin"),
        ("dev", "app/apps/web/next.config.ts", "app/apps/web/.next"),
    ] {
        let output = format!("type=oci,dest=../{target}-image,tar=false");
        example.build(&["--target", target, "--output", &output]).digest();
        let files = Layout::open(&example.context.folder().join(format!("{target}-image"))).files();
        assert!(files.contains_key(has) && !files.contains_key(lacks), "{target}");
    }
}
