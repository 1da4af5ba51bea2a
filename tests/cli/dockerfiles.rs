//! The Dockerfiles that the project was born for, as they stand in `buildspec/`: not a byte of them is edited.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::context::{Build, TestContext, base_layout, bases, skip};
use crate::layout::Layout;

const BUILDSPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/buildspec");

/// Copies what `buildspec/` has under `from` into the workspace.
fn take(context: &TestContext, from: &str, to: &str) {
    let text = fs::read_to_string(Path::new(BUILDSPEC).join(from)).unwrap();
    context.write(to, &text);
}

fn build(context: &TestContext, args: &[&str]) -> Build {
    let mut all: Vec<String> = ["build", "--progress", "json"].map(str::to_owned).to_vec();
    all.extend(context.base_images());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    let child = context.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    context.finish_build(child)
}

fn left_out() -> bool {
    let out = std::env::var("WBUILD_TEST_E2E").is_ok_and(|value| value == "0");
    if out {
        skip("WBUILD_TEST_E2E is 0");
    }
    out
}

/// The example as the original was when its Dockerfile copied two manifests: the app needs the database package only.
fn of_two_packages() -> TestContext {
    let context = TestContext::example().online();
    for file in ["packages/ui/src", "packages/tsconfig"] {
        assert!(context.path(file).is_dir());
    }
    copy_dir(&context.path("packages/ui/src"), &context.path("apps/web/src/ui"));
    for (file, from) in [("apps/web/src/app/page.tsx", "../ui"), ("apps/web/src/app/layout.tsx", "../ui")] {
        context.edit(file, "'@repo/ui'", &format!("'{from}'"));
    }
    context.edit("apps/web/next.config.ts", "['@repo/database', '@repo/ui']", "['@repo/database']");
    context.edit("apps/web/package.json", "    \"@repo/ui\": \"workspace:*\",\n", "");
    context.edit("apps/web/package.json", "    \"@repo/tsconfig\": \"workspace:*\",\n", "");
    context.edit("packages/database/package.json", "    \"@repo/tsconfig\": \"workspace:*\",\n", "");
    context.edit("apps/web/tsconfig.json", "@repo/tsconfig/", "../../packages/tsconfig/");
    context.edit("packages/database/tsconfig.json", "@repo/tsconfig/", "../tsconfig/");
    let lockfile = context.read("pnpm-lock.yaml");
    let (web, database) = (importer(&lockfile, "apps/web"), importer(&lockfile, "packages/database"));
    let without = |importer: &str, name: &str| {
        let at = importer.find(&format!("      '{name}':\n")).unwrap();
        let lines: usize = importer[at..].split_inclusive('\n').take(3).map(str::len).sum();
        format!("{}{}", &importer[..at], &importer[at + lines..])
    };
    let lockfile = lockfile
        .replace(&web, &without(&without(&web, "@repo/ui"), "@repo/tsconfig"))
        .replace(&database, &without(&database, "@repo/tsconfig"));
    context.write("pnpm-lock.yaml", &lockfile);
    context
}

/// The lines of one importer of a lockfile.
fn importer(lockfile: &str, name: &str) -> String {
    let start = lockfile.find(&format!("\n  {name}:\n")).unwrap() + 1;
    let end = lockfile[start..].find("\n\n").unwrap() + start + 2;
    lockfile[start..end].to_owned()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_web_file_and_the_dev_file() {
    if left_out() || bases().is_none() {
        return;
    }
    let context = of_two_packages();
    take(&context, "docker/Dockerfile.web", "docker/Dockerfile.web");
    take(&context, "docker/Dockerfile.dev", "docker/Dockerfile.dev");
    // The plan of the original: the file at the root points to the one in the folder.
    std::os::unix::fs::symlink("docker/Dockerfile.web", context.path("Dockerfile")).unwrap();

    let web = build(&context, &["-o", "type=oci,dest=out,tar=false", "."]);
    let digest = web.digest().to_owned();
    let image = Layout::open(&context.path("out"));
    let config = image.config();
    let execution = &config["config"];
    assert_eq!(execution["User"], "nextjs");
    assert_eq!(execution["WorkingDir"], "/app");
    assert_eq!(execution["Cmd"], serde_json::json!(["node", "apps/web/server.js"]));
    assert_eq!(execution["ExposedPorts"], serde_json::json!({"3000/tcp": {}}));
    assert_eq!(execution["Healthcheck"]["StartPeriod"], 40_000_000_000_u64);
    let rows = config["history"].as_array().unwrap();
    let created_by = |row: &Value| row["created_by"].as_str().unwrap_or_default().to_owned();
    let text = rows.iter().map(created_by).collect::<Vec<_>>().join("\n");
    assert!(
        text.contains("COPY --chown=nextjs:nodejs /app/apps/web/public ./apps/web/public # buildkit"),
        "{text}"
    );
    let server = image.texts(&|path| path == "app/apps/web/server.js");
    assert!(server.contains("next"), "the server is not in the image");

    for target in ["base", "deps", "builder", "runner"] {
        let again = build(&context, &["--target", target, "-f", "docker/Dockerfile.web", "."]);
        assert_eq!(again.output.code, 0, "{target}: {}", again.output);
        assert_eq!(again.steps("built"), Vec::<&str>::new(), "{target}");
    }
    let again = build(&context, &["-f", "Dockerfile", "."]);
    assert_eq!(again.digest(), digest, "the link is the same file");

    let dev = build(&context, &["-f", "docker/Dockerfile.dev", "-o", "type=oci,dest=dev,tar=false", "."]);
    dev.digest();
    let config = Layout::open(&context.path("dev")).config();
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["turbo", "run", "dev", "--filter=web"]));
}

/// With the whole closure, the file as it was lacks two manifests; with their lines it builds.
#[test]
fn the_web_file_corrected_for_the_full_example() {
    if left_out() || bases().is_none() {
        return;
    }
    let context = TestContext::example().online();
    let file = fs::read_to_string(Path::new(BUILDSPEC).join("docker/Dockerfile.web")).unwrap();
    let line = "COPY packages/database/package.json ./packages/database/package.json\n";
    let more: String = ["ui", "tsconfig"]
        .iter()
        .map(|name| format!("COPY packages/{name}/package.json ./packages/{name}/package.json\n"))
        .collect();
    context.write("Dockerfile", &file.replace(line, &format!("{line}{more}")));
    let built = build(&context, &["--turbo-cache", "."]);
    built.digest();
    // The step runs again, and turbo finds what it built before.
    context.write("elsewhere.txt", "no input of any task");
    let again = build(&context, &["--turbo-cache", "--target", "builder", "."]);
    let log: String = again.events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert!(log.contains("FULL TURBO"), "{log}");
}

/// An HTTPS server in the place of the host that the tunnel's file downloads from.
struct Downloads(Child);

impl Drop for Downloads {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SERVER: &str = r#"
import http.server, io, ssl, sys, tarfile
folder = sys.argv[1]
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode='w:gz') as tar:
    for name, text in [('frps', '#!/bin/sh\necho tunnel\n'), ('LICENSE', 'free\n'), ('conf/frps.toml', '\n')]:
        entry = tarfile.TarInfo('frp_0.65.0_linux_amd64/' + name)
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = '/fatedier/frp/releases/download/v0.65.0/frp_0.65.0_linux_amd64.tar.gz'
        found = self.path == wanted
        body = archive.getvalue() if found else b'not here'
        self.send_response(200 if found else 404)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(('127.0.0.1', 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder + '/server.pem', folder + '/server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print('ready', flush=True)
server.serve_forever()
"#;

/// Serves the download on port 443; `None`, with a printed reason, where that cannot be.
fn downloads(folder: &Path) -> Option<Downloads> {
    if !rustix::process::getuid().is_root() {
        skip("port 443 needs root");
        return None;
    }
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl").args(args).current_dir(folder).output();
        done.is_ok_and(|output| output.status.success())
    };
    fs::write(folder.join("names"), "subjectAltName=DNS:github.com\n").unwrap();
    let made = openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=wbuild test",
    ]) && openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
        "-subj",
        "/CN=github.com",
    ]) && openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
    if !made {
        skip("openssl is not here to make a certificate");
        return None;
    }
    fs::write(folder.join("server.py"), SERVER).unwrap();
    let mut server = Command::new("python3")
        .args(["-B", "server.py"])
        .arg(folder)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    let said = std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut ready);
    let server = Downloads(server);
    if said.is_err() {
        skip("port 443 is taken");
        return None;
    }
    Some(server)
}

#[test]
fn the_tunnel_file() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty();
    let tls: PathBuf = context.folder().join("tls");
    fs::create_dir(&tls).unwrap();
    let Some(_server) = downloads(&tls) else { return };
    // The way of a company: its certificate authority is in the bundle of the machine.
    let context = context.env("SSL_CERT_FILE", tls.join("ca.pem").to_str().unwrap());
    take(&context, "tunnel/Dockerfile", "Dockerfile");
    context.write("frps.tmpl.toml", "bindPort = ${PORT}\n");
    context.write("entrypoint.sh", "#!/bin/sh\nexec frps\n");
    let alpine = format!("alpine:3.20=oci-layout://{}", base_layout("alpine:3.23").display());
    let args = ["--build-context", &alpine, "--add-host", "github.com:127.0.0.1"];
    let built = build(&context, &[&args[..], &["-o", "type=oci,dest=out,tar=false", "."]].concat());
    built.digest();
    let image = Layout::open(&context.path("out"));
    assert_eq!(image.texts(&|path| path == "usr/local/bin/frps"), "#!/bin/sh\necho tunnel\n");
    assert_eq!(image.config()["config"]["Entrypoint"], serde_json::json!(["/entrypoint.sh"]));
    let authority = fs::read_to_string(tls.join("ca.pem")).unwrap();
    let line = authority.lines().nth(5).unwrap();
    assert!(!image.texts(&|_| true).contains(line), "the certificate authority is in the image");
    assert!(context.traces(line).is_empty(), "it is in the state directory");
}
