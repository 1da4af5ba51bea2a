//! `wbuild build` beside `docker build`, on Dockerfiles of the project's own: the small ones of `tests/dockerfiles`, one
//! that copies 50,000 files from stage to stage, and one of 2,000 lines.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::{Arguments, Scenario};
use crate::contest::{Contest, Goal, Lane};
use crate::docker::Docker;
use crate::problem::{Problem, doing};
use crate::run::{Peak, copy_folder, remove_folder, run};
use crate::site::repository;
use crate::wbuild::BaseImage;

/// Cases that need more than their folder: an archive that the test makes, an image that is built before.
const LEFT_OUT: [&str; 2] = ["add", "onbuild"];

/// Makes a tree like that of installed modules, hands it on, and takes one file of it: nothing runs on the tree, so
/// nothing has to be copied.
const PASSED_ON: &str = "\
FROM alpine:3.23 AS modules
RUN for p in $(seq 1 500); do mkdir -p /modules/p$p/lib; i=0; while [ $i -lt 100 ]; do \
echo \"module.exports = $p + $i\" > /modules/p$p/lib/f$i.js; i=$((i+1)); done; done
FROM alpine:3.23 AS middle
ARG TO
COPY --from=modules /modules /$TO
FROM alpine:3.23
ARG TO
COPY --from=middle /$TO/p7/lib/f7.js /one.js
";

/// The program, and what it builds with.
#[derive(Debug)]
pub(crate) struct Dockerfiles<'a> {
    arguments: &'a Arguments,
    docker: Option<&'a Docker>,
    base: &'a BaseImage,
    work: PathBuf,
}

impl<'a> Dockerfiles<'a> {
    /// `base` is `alpine:3.23`, which `docker` has.
    pub(crate) fn new(
        arguments: &'a Arguments,
        docker: Option<&'a Docker>,
        base: &'a BaseImage,
        work: &Path,
    ) -> Result<Self, Problem> {
        let work = work.join("dockerfiles");
        remove_folder(&work)?;
        copy_folder(&repository().join("tests/dockerfiles"), &work)?;
        Ok(Self { arguments, docker, base, work })
    }

    fn home(&self) -> PathBuf {
        self.work.join("home")
    }

    fn wbuild(&self, folder: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.arguments.wbuild);
        command.args(["build", "--network", "none", "--progress", "plain"]).args(arguments);
        command.arg("--build-context").arg(format!("{}={}", self.base.name, self.base.place));
        command.arg("--home").arg(self.home()).arg(folder);
        command
    }

    /// Each of the small Dockerfiles, with nothing built and with everything built.
    pub(crate) fn small(&self) -> Result<(), Problem> {
        let entries = fs::read_dir(repository().join("tests/dockerfiles"))
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, _>>())
            .map_err(doing("list", &self.work))?;
        let mut cases: Vec<String> =
            entries.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
        cases.retain(|case| !LEFT_OUT.contains(&case.as_str()));
        cases.sort();
        for case in &cases {
            let folder = &self.work.join(case);
            let cold = ["--no-cache".to_owned()];
            self.contest(format!("{case}, cold"), folder, move || cold.to_vec(), None)?;
            run(self.wbuild(folder, &[]), Peak::Loose)?;
            self.contest(format!("{case}, warm"), folder, Vec::new, None)?;
        }
        Ok(())
    }

    /// 50,000 files from stage to stage.
    pub(crate) fn many(&self) -> Result<(), Problem> {
        let folder = &self.work.join("many-files");
        fs::create_dir_all(folder).map_err(doing("create", folder))?;
        let file = folder.join("Dockerfile");
        fs::write(&file, PASSED_ON).map_err(doing("write", &file))?;
        let made = ["--target".to_owned(), "modules".to_owned()];
        run(self.wbuild(folder, &made), Peak::Loose)?;
        if let Some(docker) = self.docker {
            run(docker.build_folder(folder, &made), Peak::Loose)?;
        }
        // Another place each time, so that neither has seen it.
        let number = Cell::new(0);
        let elsewhere = move || {
            number.set(number.get() + 1);
            vec!["--build-arg".to_owned(), format!("TO=to-{}", number.get())]
        };
        let title = "COPY --from of 50,000 files that no step sees".to_owned();
        self.contest(title, folder, elsewhere, Some(Goal::Times(50.0)))
    }

    /// What reading and lowering 2,000 lines costs: `wbuild check` of them, against that of two lines.
    pub(crate) fn long(&self) -> Result<(), Problem> {
        let mut text = "FROM scratch\n".to_owned();
        for line in 0..500 {
            let before = line.max(1) - 1;
            let _ = write!(
                text,
                "# what follows, {line}\nENV A{line}=\"x ${{A{before}:+set}} y\"\n\
                 LABEL l{line}=\"v${{A{line}:-none}}\"\nRUN echo {line} && \\\n"
            );
            let _ = writeln!(text, "    echo \"$A{line}\"");
        }
        let check = |name: &str, text: &str| {
            let folder = self.work.join(name);
            let file = folder.join("Dockerfile");
            fs::create_dir_all(&folder).map_err(doing("create", &folder))?;
            fs::write(&file, text).map_err(doing("write", &file))?;
            Ok::<_, Problem>(move || {
                let mut command = Command::new(&self.arguments.wbuild);
                command.arg("check").arg(&folder);
                command
            })
        };
        let (long, short) = (check("long", &text)?, check("short", "FROM scratch\nENV A=1\n")?);
        let mut contest = Contest::new("wbuild check", self.arguments.runs_of(Scenario::Unchanged));
        contest.add(Lane::new("2,500 lines", long));
        contest.add(Lane::new("2 lines", short));
        contest.run()
    }

    fn contest(
        &self,
        title: String,
        folder: &Path,
        arguments: impl Fn() -> Vec<String> + Clone,
        goal: Option<Goal>,
    ) -> Result<(), Problem> {
        let mut contest = Contest::new(title, self.arguments.runs_of(Scenario::Dockerfiles));
        let own = arguments.clone();
        contest.add(Lane::new("wbuild build", move || self.wbuild(folder, &own())));
        if let Some(docker) = self.docker {
            let lane = Lane::new("docker build", move || docker.build_folder(folder, &arguments()));
            contest.add(match goal {
                Some(goal) => lane.goal(goal),
                None => lane,
            });
        }
        contest.run()
    }
}
