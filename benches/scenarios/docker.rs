//! `docker build` with BuildKit, on a daemon of its own that ends with this program.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::problem::{Problem, Skipped, doing};
use crate::run::{Peak, has_program, run};
use crate::site::{Site, repository};
use crate::wbuild::BaseImage;

/// How long a daemon may take to answer.
const START: Duration = Duration::from_secs(60);

/// A client and a daemon.
#[derive(Debug)]
pub(crate) struct Docker {
    client: PathBuf,
    host: String,
    /// `None` when it was there before.
    daemon: Option<Child>,
    pub(crate) site: Site,
}

impl Docker {
    /// Uses the daemon of `DOCKER_HOST`, or starts one, and gives it the base images.
    pub(crate) fn start(bases: &[&BaseImage], work: &Path) -> Result<Self, Skipped> {
        if !has_program("skopeo") {
            return Err(Skipped::Missing(
                "there is no `skopeo`, which turns the base image into what docker loads".to_owned(),
            ));
        }
        // A distribution's own comes first: a `docker` earlier in PATH may be no client of a daemon.
        let client = PathBuf::from("/usr/bin/docker");
        let client = if client.exists() { client } else { "docker".into() };
        let site = Site::copy_to(work.join("site-docker"))?;
        let given = env::var("DOCKER_HOST").ok();
        let (host, daemon) = match given {
            Some(host) => (host, None),
            None => {
                let (host, daemon) = start_daemon(&work.join("docker"))?;
                (host, Some(daemon))
            }
        };
        let docker = Self { client, host, daemon, site };
        docker.wait_for_daemon()?;
        for base in bases {
            docker.load(base, work)?;
        }
        Ok(docker)
    }

    /// The command that builds the web image.
    pub(crate) fn build(&self) -> Command {
        let mut command = self.command();
        command.env("DOCKER_BUILDKIT", "1");
        // Steps have the host's network, as wbuild's have.
        command.args(["build", "--network", "host", "--progress", "plain", "--tag", "bench/web", "--file"]);
        command.arg(repository().join("benches/Dockerfile.web"));
        if let Some(bundle) = env::var_os("NODE_EXTRA_CA_CERTS").or_else(|| env::var_os("SSL_CERT_FILE")) {
            command.arg("--secret").arg(format!("id=ca,src={}", Path::new(&bundle).display()));
            command.args(["--build-arg", "NODE_EXTRA_CA_CERTS=/run/secrets/ca"]);
        }
        command.arg(&self.site.path);
        command
    }

    /// The command that builds a folder's Dockerfile.
    pub(crate) fn build_folder(&self, folder: &Path, arguments: &[String]) -> Command {
        let mut command = self.command();
        command.env("DOCKER_BUILDKIT", "1");
        command.args(["build", "--network", "none", "--progress", "plain", "--tag", "bench/case"]);
        command.args(arguments).arg(folder);
        command
    }

    /// The same, and then the image in a file, which is what the others leave behind.
    pub(crate) fn build_and_save(&self) -> Command {
        let build = self.build();
        let mut command = Command::new("/bin/sh");
        // $0 is the client, $1 the daemon's address, $2 the file; the build's own words follow.
        command.args(["-ec", r#"docker=$0 host=$1 file=$2; shift 2; "$docker" "$@"; exec "$docker" --host "$host" save --output "$file" bench/web"#]);
        command.arg(&self.client).arg(&self.host).arg(self.site.path.with_extension("tar"));
        command.args(build.get_args()).env("DOCKER_BUILDKIT", "1");
        command
    }

    /// The command that builds the web image and pushes it.
    pub(crate) fn build_and_push(&self, name: &str) -> Command {
        let build = self.build();
        let mut command = Command::new("/bin/sh");
        // $0 is the client, $1 the daemon's address, $2 the name; the build's own words follow.
        command.args(["-ec", r#"docker=$0 host=$1 name=$2; shift 2; "$docker" "$@"; "$docker" --host "$host" tag bench/web "$name"; exec "$docker" --host "$host" push "$name""#]);
        command.arg(&self.client).arg(&self.host).arg(name);
        command.args(build.get_args()).env("DOCKER_BUILDKIT", "1");
        command
    }

    /// The command that pulls an image and unpacks it.
    pub(crate) fn pull(&self, name: &str) -> Command {
        let mut command = self.command();
        command.args(["pull", "--quiet", name]);
        command
    }

    /// The command that forgets an image.
    pub(crate) fn remove_image(&self, name: &str) -> Command {
        let mut command = self.command();
        command.args(["image", "rm", "--force", name]);
        command
    }

    fn load(&self, base: &BaseImage, work: &Path) -> Result<(), Problem> {
        let archive = work.join("base.tar");
        let layout = base.place.trim_start_matches("oci-layout://");
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", &format!("oci:{layout}")]);
        copy.arg(format!("docker-archive:{}:{}", archive.display(), base.name));
        run(copy, Peak::Loose)?;
        let mut load = self.command();
        load.args(["load", "--quiet", "--input"]).arg(&archive);
        run(load, Peak::Loose)?;
        fs::remove_file(&archive).map_err(doing("remove", &archive))
    }

    fn wait_for_daemon(&self) -> Result<(), Skipped> {
        let started = Instant::now();
        loop {
            let mut version = self.command();
            version.args(["version", "--format", "{{.Server.Version}}"]);
            match run(version, Peak::Loose) {
                Ok(answer) => {
                    println!("docker: server {}, BuildKit", answer.said.trim());
                    return Ok(());
                }
                Err(_) if started.elapsed() < START => thread::sleep(Duration::from_millis(200)),
                Err(problem) => return Err(Skipped::Missing(format!("no daemon answers: {problem}"))),
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        command.args(["--host", &self.host]);
        command
    }
}

fn start_daemon(folder: &Path) -> Result<(String, Child), Skipped> {
    if !has_program("dockerd") {
        return Err(Skipped::Missing(
            "there is no `dockerd` (Debian: docker.io), and DOCKER_HOST is not set".to_owned(),
        ));
    }
    fs::create_dir_all(folder).map_err(doing("create", folder))?;
    let host = format!("unix://{}", folder.join("socket").display());
    let log_path = folder.join("log");
    let log = File::create(&log_path).map_err(doing("create", &log_path))?;
    let mut command = Command::new("dockerd");
    command.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(folder.join("exec"));
    command.arg("--pidfile").arg(folder.join("pid")).args(["--host", &host]);
    // Nothing of the host's network is touched: steps use it as it is.
    command.args(["--bridge=none", "--iptables=false"]);
    command.stdin(Stdio::null()).stderr(log).stdout(Stdio::null());
    let daemon =
        command.spawn().map_err(|source| Problem::Io { action: "start dockerd".to_owned(), source })?;
    Ok((host, daemon))
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // Asked, not killed: only then does it end its containerd and undo its mounts.
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
        }
    }
}
