//! The bare commands: what a person would type, in a chroot of the same base tree (decision 19). No cache of results, no
//! sandbox, no image; pnpm's store and Next's cache stay where these tools keep them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::problem::{Problem, Skipped, doing};
use crate::run::{Peak, copy_folder, has_program, remove_folder, run};
use crate::site::{Site, repository};
use crate::wbuild::Wbuild;

/// The application's place in the image; pnpm and Next write it into what they make.
const APP: &str = "app";

/// `pnpm install` of the application's closure, with the store in the chroot.
const INSTALL: &str = "cd /app && CI=1 pnpm install --frozen-lockfile --filter=web...";

/// The tasks before the application's own.
const TASKS: &str = "cd /app && pnpm run content && cd packages/database && pnpm run generate";

/// The application's own task.
const NEXT_BUILD: &str = "cd /app/apps/web && pnpm run build";

/// Enters the chroot with what node needs of a machine: $0 is the root, $1 the script.
const ENTER: &str = r#"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
exec chroot "$0" /bin/sh -ec "$1"
"#;

/// The machine's CA bundle inside of the chroot.
const BUNDLE: &str = "etc/ssl/bench-ca.pem";

/// A chroot with the example in it.
#[derive(Debug)]
pub(crate) struct Bare {
    root: PathBuf,
}

impl Bare {
    /// Unpacks the stage `base` of wbuild's own build.
    pub(crate) fn unpack(wbuild: &Wbuild, work: &Path) -> Result<Self, Skipped> {
        for program in ["umoci", "unshare", "chroot", "mount"] {
            if !has_program(program) {
                return Err(Skipped::Missing(format!("there is no `{program}`")));
            }
        }
        if run(enter(Path::new("/"), "true"), Peak::Loose).is_err() {
            return Err(Skipped::Missing("a chroot with /proc needs root".to_owned()));
        }
        let (layout, bundle) = (work.join("base"), work.join("bundle"));
        wbuild.export_base(&layout)?;
        let mut unpack = Command::new("umoci");
        unpack.args(["unpack", "--image"]).arg(format!("{}:bench:base", layout.display())).arg(&bundle);
        if run(unpack, Peak::Loose).is_err() {
            // The tag in the layout is the name's, with or without its repository.
            let mut unpack = Command::new("umoci");
            unpack.args(["unpack", "--image"]).arg(format!("{}:base", layout.display())).arg(&bundle);
            run(unpack, Peak::Loose)?;
        }
        let root = bundle.join("rootfs");
        let given = env::var_os("NODE_EXTRA_CA_CERTS").or_else(|| env::var_os("SSL_CERT_FILE"));
        let files =
            [(given.map(PathBuf::from), BUNDLE), (Some("/etc/resolv.conf".into()), "etc/resolv.conf")];
        for (from, to) in files {
            if let Some(from) = from {
                let to = root.join(to);
                // A base image may lack the folder, or bring a dangling link.
                let _ = fs::create_dir_all(root.join("etc/ssl"));
                let _ = fs::remove_file(&to);
                fs::copy(&from, &to).map_err(doing("copy", &from))?;
            }
        }
        let bare = Self { root };
        bare.reset()?;
        Ok(bare)
    }

    /// The example in the chroot.
    pub(crate) fn site(&self) -> Site {
        Site::at(self.root.join(APP))
    }

    /// Builds everything once, so that pnpm's store and Next's cache are warm.
    pub(crate) fn build(&self) -> Result<(), Problem> {
        self.reset()?;
        run(self.everything(), Peak::Loose).map(drop)
    }

    /// The install and all tasks.
    pub(crate) fn everything(&self) -> Command {
        self.command(&format!("{INSTALL} && {} && {TASKS} && {NEXT_BUILD}", environment()))
    }

    /// The application's own task alone.
    pub(crate) fn next_build(&self) -> Command {
        self.command(&format!("{} && {NEXT_BUILD}", environment()))
    }

    /// A fresh checkout: nothing installed, nothing built. pnpm's store stays.
    pub(crate) fn reset(&self) -> Result<(), Problem> {
        let app = self.root.join(APP);
        remove_folder(&app)?;
        copy_folder(&repository().join("tests/monorepo"), &app)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = enter(&self.root, script);
        command.env_clear();
        command
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        command.env("npm_config_store_dir", "/pnpm/store").env("npm_config_update_notifier", "false");
        if self.root.join(BUNDLE).exists() {
            command.env("NODE_EXTRA_CA_CERTS", Path::new("/").join(BUNDLE));
        }
        for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }
}

/// What buildspec/web.toml gives to the tasks.
fn environment() -> &'static str {
    "export NODE_ENV=production NEXT_TELEMETRY_DISABLED=1 \
     DATABASE_URL='postgresql://placeholder:placeholder@placeholder:5432/placeholder?schema=public'"
}

fn enter(root: &Path, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", ENTER])
        .arg(root)
        .arg(script);
    command
}
