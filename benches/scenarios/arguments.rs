//! The command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::problem::{Problem, doing};
use crate::run::{Peak, remove_folder, run};
use crate::site::repository;
use crate::wbuild::BaseImage;

const USAGE: &str = "\
usage: cargo bench --bench scenarios -- [OPTIONS] [SCENARIO…]

scenarios (default: all, in this order):
  unchanged   nothing changed, against docker build
  nothing     edits after which little or nothing may run (counts steps)
  edit        one line of a page edited, against bare next build and docker build
  cold        nothing built but the base tree, against the bare commands
  push        one line of a page edited, built and pushed: bytes sent, against docker build and docker push
  pull        a base image of a registry pulled and unpacked, against docker pull
  dockerfiles tests/dockerfiles, cold and warm, against docker build
  many        COPY --from of 50,000 files that no step sees, against docker build
  long        wbuild check of 2,500 lines, against two lines

options:
  --runs N        rounds of `edit` and `cold` (default 5); `unchanged` has four times as many
  --wbuild FILE   the program to measure (default: the one that cargo built for this run)
  --work FOLDER   where to work (default: in the target folder); removed at the end
  --keep          keep it";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Unchanged,
    Nothing,
    Edit,
    Cold,
    Push,
    Pull,
    Dockerfiles,
    Many,
    Long,
}

/// Those on the example workspace.
pub(crate) const OF_THE_EXAMPLE: [Scenario; 5] =
    [Scenario::Unchanged, Scenario::Nothing, Scenario::Edit, Scenario::Cold, Scenario::Push];

const ALL: [(&str, Scenario); 9] = [
    ("unchanged", Scenario::Unchanged),
    ("nothing", Scenario::Nothing),
    ("edit", Scenario::Edit),
    ("cold", Scenario::Cold),
    ("push", Scenario::Push),
    ("pull", Scenario::Pull),
    ("dockerfiles", Scenario::Dockerfiles),
    ("many", Scenario::Many),
    ("long", Scenario::Long),
];

/// The command line, read.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) wbuild: PathBuf,
    runs: usize,
    work: PathBuf,
    keep: bool,
}

impl Arguments {
    /// `None` when it is not meant to measure: without `--bench`, which `cargo bench` gives.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = Self {
            scenarios: Vec::new(),
            wbuild: env!("CARGO_BIN_EXE_wbuild").into(),
            runs: 5,
            work: Path::new(env!("CARGO_TARGET_TMPDIR")).join("scenarios"),
            keep: false,
        };
        let mut bench = false;
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n\n{USAGE}"));
            match word.as_str() {
                "--bench" => bench = true,
                "--keep" => arguments.keep = true,
                "--help" => return Err(USAGE.to_owned()),
                "--runs" => {
                    let text = value()?;
                    let runs = text.parse().ok().filter(|runs| *runs > 0);
                    arguments.runs = runs.ok_or_else(|| format!("--runs {text} is no number of rounds"))?;
                }
                "--wbuild" => arguments.wbuild = value()?.into(),
                "--work" => arguments.work = value()?.into(),
                name => match ALL.iter().find(|(known, _)| *known == name) {
                    Some((_, scenario)) => arguments.scenarios.push(*scenario),
                    None => return Err(format!("there is no scenario `{name}`\n\n{USAGE}")),
                },
            }
        }
        if arguments.scenarios.is_empty() {
            arguments.scenarios = ALL.map(|(_, scenario)| scenario).to_vec();
        }
        Ok(bench.then_some(arguments))
    }

    /// How many rounds a scenario has. What takes milliseconds needs more of them.
    pub(crate) fn runs_of(&self, scenario: Scenario) -> usize {
        if scenario == Scenario::Unchanged { self.runs * 4 } else { self.runs }
    }

    /// Whether one of these is asked for.
    pub(crate) fn needs(&self, scenarios: &[Scenario]) -> bool {
        self.scenarios.iter().any(|scenario| scenarios.contains(scenario))
    }

    /// An empty folder to work in.
    pub(crate) fn work_folder(&self) -> Result<WorkFolder, Problem> {
        remove_folder(&self.work)?;
        fs::create_dir_all(&self.work).map_err(doing("create", &self.work))?;
        let path = self.work.canonicalize().map_err(doing("find", &self.work))?;
        Ok(WorkFolder { path, keep: self.keep })
    }

    /// A base image, made from packages and cached: `node` is the example's.
    pub(crate) fn base_image(&self, image: &str) -> Result<BaseImage, Problem> {
        let mut command = Command::new(repository().join("scripts/base-image"));
        command.args(["--image", image]);
        let said = run(command, Peak::Loose)?.said;
        let found = said.lines().find_map(|line| line.split_once('\t'));
        match found {
            Some((name, place)) => Ok(BaseImage { name: name.to_owned(), place: place.to_owned() }),
            None => Err(Problem::Command { command: "scripts/base-image printed no image".to_owned(), said }),
        }
    }
}

/// Removed at the end, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    path: PathBuf,
    keep: bool,
}

impl WorkFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
