//! The registry that Debian has, and skopeo as an independent reader.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use crate::context::{Output, TestContext, skip};

/// `u` with the password `hunter2`.
const HTPASSWD: &str = "u:$2y$05$2/uAIibXWSr8bcR0AcT3Ru3cq8TKJu7TXwkNP9s7WpufHHQIK7SMq\n";

/// A registry on a port of its own, gone when it is dropped.
pub(super) struct Registry {
    child: Child,
    pub(super) port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// `None`, with a printed reason, where it is not installed.
    pub(super) fn start(folder: &Path, auth: bool, certificate: Option<(&Path, &Path)>) -> Option<Self> {
        for program in ["docker-registry", "skopeo"] {
            if Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_err()
            {
                skip(&format!("{program} is not installed"));
                return None;
            }
        }
        let data = folder.join("data");
        fs::create_dir_all(&data).unwrap();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            data.display()
        );
        if let Some((certificate, key)) = certificate {
            config.push_str(&format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                certificate.display(),
                key.display()
            ));
        }
        if auth {
            let file = folder.join("htpasswd");
            fs::write(&file, HTPASSWD).unwrap();
            config.push_str(&format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display()));
        }
        let file = folder.join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listens =
            |line: &String| line.split_once("listening on 127.0.0.1:").map(|(_, port)| port.to_owned());
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| listens(&line)).unwrap();
        let port = port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        // Whoever does not read its log stops it.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, port })
    }
}

fn build(context: &TestContext) -> String {
    context.write("files/f", &"hello\n".repeat(100_000));
    context.write("files/Dockerfile", "FROM scratch\nCOPY f /f\nCOPY f /g\nCMD [\"/f\"]\n");
    let said = context.run(&["build", "--progress", "quiet", "-o", "type=oci,tar=false,dest=image", "files"]);
    assert_eq!(said.code, 0, "{said}");
    said.stdout.lines().last().unwrap().to_owned()
}

fn skopeo(context: &TestContext, args: &[&str]) -> String {
    let output = Command::new("skopeo").args(args).current_dir(context.site()).output().unwrap();
    assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ok(said: Output) -> Output {
    assert_eq!(said.code, 0, "{said}");
    said
}

#[test]
fn what_is_pushed_is_what_skopeo_reads() {
    let context = TestContext::empty();
    let Some(registry) = Registry::start(context.folder(), false, None) else { return };
    let digest = build(&context);
    let name = |rest: &str| format!("localhost:{}/{rest}", registry.port);
    ok(context.run(&["push", "image", &name("team/app:v1"), &name("team/app:v2")]));
    let inspected =
        skopeo(&context, &["inspect", "--tls-verify=false", &format!("docker://{}", name("team/app:v2"))]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Digest"], digest.as_str());
    skopeo(
        &context,
        &[
            "copy",
            "-q",
            "--src-tls-verify=false",
            &format!("docker://{}", name("team/app:v1")),
            "oci:read:v1",
        ],
    );
    // And back: as skopeo wrote it, and as skopeo pushed it.
    skopeo(
        &context,
        &[
            "copy",
            "-q",
            "--dest-tls-verify=false",
            "oci:read:v1",
            &format!("docker://{}", name("back/app:v1")),
        ],
    );
    let said = ok(context.run(&["copy", &name("back/app:v1"), &name("third/app:v1")]));
    assert!(said.stderr.contains("lent by another repository"), "{said}");
    let said = ok(context.run(&["pull", &name("third/app:v1"), "-o", "pulled"]));
    assert_eq!(said.stdout.trim(), digest);
    let said = ok(context.run(&["push", "read:v1", &name("team/app:v1")]));
    assert!(said.stderr.contains("unchanged "), "{said}");
    let said = context.run(&["pull", &name("team/app:v3")]);
    assert!(
        said.stderr.contains("has no `v3`") && said.stderr.contains("did you mean `v1`, `v2`?"),
        "{said}"
    );
    for (name, source) in
        [("pulled", "oci:pulled:v1"), ("archive", "oci-archive:a.tar"), ("docker", "docker-archive:d.tar")]
    {
        if name != "pulled" {
            ok(context.run(&["copy", "oci:pulled", &format!("{source}:localhost/app:v1")]));
        }
        skopeo(&context, &["inspect", source]);
    }
}

#[test]
fn a_password_and_a_certificate_of_ones_own() {
    let context = TestContext::empty();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let folder = context.folder().to_owned();
    let file = move |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.pem", &authority.pem());
    let (certificate, key) = (file("cert.pem", &certificate.pem()), file("key.pem", &key.serialize_pem()));
    let Some(registry) = Registry::start(context.folder(), true, Some((&certificate, &key))) else { return };
    let host = format!("localhost:{}", registry.port);
    let name = format!("{host}/team/app:v1");
    build(&context);
    // Nobody here knows who signed that.
    let said = context.run(&["push", "image", &name]);
    assert!(said.stderr.contains("cannot trust") && said.stderr.contains("ca = [\"FILE\"]"), "{said}");
    let rules = file("registries.toml", &format!("[registry.\"{host}\"]\nca = [\"{}\"]\n", ca.display()));
    let context = context.env("WBUILD_CONFIG", rules.to_str().unwrap());
    let said = context.run(&["push", "image", &name]);
    assert!(said.stderr.contains("does not let us push to `team/app`: 401"), "{said}");
    assert!(said.stderr.contains(&format!("`wbuild login {host}` writes them")), "{said}");
    let mut login = context.command(&["login", &host, "-u", "u", "--password-stdin"]);
    let password = context.folder().join("password");
    fs::write(&password, "hunter2\n").unwrap();
    let output = login.stdin(fs::File::open(&password).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ok(context.run(&["push", "image", &name]));
    let digest = ok(context.run(&["pull", &name])).stdout;
    let read = skopeo(
        &context,
        &["inspect", "--tls-verify=false", "--creds", "u:hunter2", &format!("docker://{name}")],
    );
    assert_eq!(serde_json::from_str::<Value>(&read).unwrap()["Digest"], digest.trim());
    // The rules say plain http, and it speaks TLS.
    file("registries.toml", &format!("[registry.\"{host}\"]\nhttp = true\n"));
    let said = context.run(&["pull", &name]);
    assert!(said.stderr.contains("speaks https, but the rules for registries say plain http"), "{said}");
}

/// A base image that is pulled, pinned, built upon offline, and lent when the result is pushed beside it.
#[test]
fn a_build_pulls_its_base_and_pushes_its_result() {
    let context = TestContext::empty();
    let Some(registry) = Registry::start(&context.folder().join("registry"), false, None) else { return };
    let host = format!("localhost:{}", registry.port);
    let context = context.env("WBUILD_OFFLINE", "0");
    let build = |args: &[&str]| {
        let output = context.run(&[&["build", "--progress", "plain"], args, &["."]].concat());
        assert_eq!(output.code, 0, "{output}");
        output
    };
    let line = |output: &Output, start: &str| {
        output.stderr.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned()
    };
    context.write("base", &"base ".repeat(1000));
    context.write("app", "app");
    context.write("Dockerfile", "FROM scratch\nCOPY base /\n");
    let base = format!("{host}/team/base:1");
    build(&["-t", &base, "--push"]);

    context.write("Dockerfile", &format!("FROM {base}\nCOPY app /\n"));
    let state = ["--home", "../elsewhere"];
    let app = format!("{host}/team/app:1");
    let pushed = build(&[&state[..], &["--pin", "-t", &app, "--push"]].concat());
    assert!(line(&pushed, "pushed").contains("1 lent"), "{pushed}");
    assert!(context.read("wbuild.lock").contains(&base), "{pushed}");
    assert!(line(&build(&[&state[..], &["-t", &app, "--push"]].concat()), "unchanged").contains("sent 0 B"));

    // The tag moves; the lock does not, until it is asked to.
    let out = ["-o", "type=oci,dest=../out,tar=false"];
    let offline = build(&[&state[..], &["--offline"], &out].concat());
    assert_eq!(offline.stdout, pushed.stdout);
    context.write("Dockerfile", "FROM scratch\nCOPY app /other\n");
    build(&["-t", &base, "--push"]);
    context.write("Dockerfile", &format!("FROM {base}\nCOPY app /\n"));
    assert_eq!(build(&[&state[..], &out].concat()).stdout, pushed.stdout);
    assert_ne!(build(&[&state[..], &["--pull"], &out].concat()).stdout, pushed.stdout);
    let answer = context.run(&["build", "--offline", "--home", "../empty", "."]);
    assert!(answer.code == 1 && answer.stderr.contains("it was never pulled"), "{answer}");
}

/// `registry.insecure=true` of an output is for that push and no other.
#[test]
fn a_push_that_may_be_insecure() {
    let context = TestContext::empty();
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (context.folder().join("cert.pem"), context.folder().join("key.pem"));
    fs::write(&certificate, signed.cert.pem()).unwrap();
    fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let Some(registry) = Registry::start(context.folder(), false, Some((&certificate, &key))) else { return };
    let name = format!("localhost:{}/team/app:v1", registry.port);
    context.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    context.write("f", "f");
    let push = |more: &str| context.run(&["build", "-o", &format!("type=registry,name={name}{more}"), "."]);
    let said = push("");
    assert!(said.code == 1 && said.stderr.contains("cannot trust"), "{said}");
    ok(push(",registry.insecure=true"));
    let said = push("");
    assert!(said.code == 1 && said.stderr.contains("cannot trust"), "{said}");
}
