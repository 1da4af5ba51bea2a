//! `wbuild image`, with a state directory and a copy of the example of its own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::problem::{Problem, doing};
use crate::run::{Peak, copy_folder, remove_folder, run};
use crate::site::{Site, repository};

/// A base image: its name in the spec, and `oci-layout://` and its folder.
#[derive(Clone, Debug)]
pub(crate) struct BaseImage {
    pub(crate) name: String,
    pub(crate) place: String,
}

/// The program, and what it is called on.
#[derive(Debug)]
pub(crate) struct Wbuild {
    program: PathBuf,
    base: BaseImage,
    work: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) site: Site,
}

/// What a build said that it did.
#[derive(Debug)]
pub(crate) struct Built {
    /// The steps that ran.
    pub(crate) ran: Vec<String>,
    /// How many there are.
    pub(crate) steps: String,
}

impl Wbuild {
    pub(crate) fn new(program: &Path, base: &BaseImage, work: &Path) -> Result<Self, Problem> {
        let site = Site::copy_to(work.join("site-wbuild"))?;
        let (program, base) = (program.to_owned(), base.clone());
        Ok(Self { program, base, work: work.to_owned(), home: work.join("home"), site })
    }

    /// The command that builds the web image and exports it into the workspace.
    pub(crate) fn image(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("image").arg("--file").arg(repository().join("buildspec/web.toml"));
        command.arg("--build-context").arg(format!("{}={}", self.base.name, self.base.place));
        command.arg("--home").arg(home).arg("-C").arg(&self.site.path).args(["--progress", "plain"]);
        command
    }

    /// The command that builds the web image and pushes it to a registry that speaks plain http.
    pub(crate) fn push(&self, name: &str) -> Command {
        let mut command = self.image(&self.home);
        command.args(["--push", "--tag", name]);
        command
    }

    /// Builds the web image; says which steps ran.
    pub(crate) fn build(&self) -> Result<Built, Problem> {
        let said = run(self.image(&self.home), Peak::Loose)?.said;
        // `#22 [builder] web#build`, and later `#22 DONE 11.4s (…)`
        let numbered = || said.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
        let done = |number| numbered().any(|(other, what)| other == number && what.starts_with("DONE "));
        let ran = numbered().filter(|(number, what)| what.starts_with('[') && done(*number));
        let ran = ran.map(|(_, step)| step.to_owned()).collect();
        // `built 1 of 6 steps, 5 reused, in 20.0 s`
        let steps = said
            .lines()
            .find_map(|line| line.strip_prefix("built ")?.split_once(" of ")?.1.split_once(" steps"));
        let Some((steps, _)) = steps else {
            return Err(Problem::Command {
                command: "wbuild image: no summary in its output".to_owned(),
                said,
            });
        };
        Ok(Built { ran, steps: steps.to_owned() })
    }

    /// Writes the stage `base` as an OCI layout: the tree on which the bare commands run.
    pub(crate) fn export_base(&self, layout: &Path) -> Result<(), Problem> {
        let mut command = self.image(&self.home);
        command.args(["--target", "base", "--tag", "bench:base", "--output"]).arg(layout);
        run(command, Peak::Loose).map(drop)
    }

    /// Prepares a state directory in which only the base tree is built, and a pnpm store with all packages.
    pub(crate) fn cold(&self) -> Result<Cold<'_>, Problem> {
        let cold = Cold {
            wbuild: self,
            home: self.work.join("home-cold"),
            seed: self.work.join("home-seed"),
            mounts: self.work.join("mounts"),
            stores: BTreeSet::new(),
        };
        let target = |home: &Path, stage: &str| {
            let mut command = self.image(home);
            command.args(["--target", stage, "--output"]).arg(self.work.join("discarded"));
            run(command, Peak::Loose).map(drop)
        };
        target(&cold.seed, "base")?;
        // The only cache mount that an install has is pnpm's store.
        copy_folder(&cold.seed, &cold.home)?;
        target(&cold.home, "deps")?;
        let kept = cold.home.join("mounts");
        let stores = fs::read_dir(&kept)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(doing("read", &kept))?;
        Ok(Cold { stores, ..cold })
    }
}

/// A state directory that can be made cold again.
#[derive(Debug)]
pub(crate) struct Cold<'a> {
    wbuild: &'a Wbuild,
    pub(crate) home: PathBuf,
    seed: PathBuf,
    /// Where the cache mounts wait meanwhile.
    mounts: PathBuf,
    /// The names of those that stay.
    stores: BTreeSet<OsString>,
}

impl Cold<'_> {
    /// Forgets everything but the base tree and pnpm's store, and the image in the workspace.
    pub(crate) fn reset(&self) -> Result<(), Problem> {
        let mounts = self.home.join("mounts");
        fs::rename(&mounts, &self.mounts).map_err(doing("move", &mounts))?;
        remove_folder(&self.home)?;
        copy_folder(&self.seed, &self.home)?;
        remove_folder(&mounts)?;
        fs::create_dir(&mounts).map_err(doing("create", &mounts))?;
        for name in &self.stores {
            let (from, to) = (self.mounts.join(name), mounts.join(name));
            fs::rename(&from, &to).map_err(doing("move", &from))?;
        }
        remove_folder(&self.mounts)?;
        remove_folder(&self.wbuild.site.path.join(".wbuild"))
    }
}
