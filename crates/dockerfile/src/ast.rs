//! Dockerfiles as typed data. Texts are as written: nothing is expanded; [`StageScope`](crate::StageScope) does that.

use std::sync::Arc;
use std::time::Duration;

use wbuild_report::{SourceFile, Span};

use crate::directive::Directives;
use crate::heredoc::Heredoc;
use crate::scope::with_shell;
use crate::source::{LineIndex, Word};
use crate::statement::Pair;

/// A Dockerfile.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The file it was read from.
    pub file: Arc<SourceFile>,
    /// What the file says about how to read it.
    pub directives: Directives,
    /// ARG before the first FROM.
    pub globals: Vec<Instruction>,
    /// The stages in order.
    pub stages: Vec<Stage>,
    /// Instructions with blank lines in their continuation: the line where each ends, and its place.
    pub empty_continuations: Vec<(usize, Span)>,
    /// Line numbers of the file.
    pub lines: LineIndex,
}

/// A line range, 1-based, both ends inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRange {
    /// The first line.
    pub first: usize,
    /// The last line, heredocs included.
    pub last: usize,
}

/// FROM with the instructions up to the next one.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its position among the stages, from 0.
    pub index: usize,
    /// `FROM` as it was written.
    pub keyword: Word,
    /// The base: an image, a stage, `scratch`; with its variables.
    pub base: Word,
    /// `AS` as it was written.
    pub as_keyword: Option<Word>,
    /// The name as it was written. Stages are known by [`Stage::name`].
    pub written_name: Option<Word>,
    /// The name in lower case; empty when it has none.
    pub name: String,
    /// `--platform`, with its variables.
    pub platform: Option<Word>,
    /// What the comment above says about it: `# name text`.
    pub description: Option<String>,
    /// The comments above, without their `#`.
    pub comments: Vec<String>,
    /// The FROM line, joined.
    pub text: String,
    /// Where the FROM line stands.
    pub span: Span,
    /// On which lines.
    pub lines: LineRange,
    /// What follows FROM.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The name, or `stage-N` for a stage without one: what progress and messages call it.
    pub fn display_name(&self) -> String {
        if self.name.is_empty() { format!("stage-{}", self.index) } else { self.name.clone() }
    }
}

/// An instruction other than FROM.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The file that its spans point into: the Dockerfile, or a trigger of a base image.
    pub file: Arc<SourceFile>,
    /// Its keyword as it was written.
    pub keyword: Word,
    /// The line, joined and trimmed, without heredoc bodies.
    pub text: String,
    /// Where it stands, heredocs included.
    pub span: Span,
    /// On which lines.
    pub lines: LineRange,
    /// The comments above, without their `#`.
    pub comments: Vec<String>,
    /// What it is.
    pub kind: Kind,
}

/// What an instruction is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// ADD
    Add(Add),
    /// ARG
    Arg(Vec<ArgItem>),
    /// CMD
    Cmd(CommandLine),
    /// COPY
    Copy(Copy),
    /// ENTRYPOINT
    Entrypoint(CommandLine),
    /// ENV
    Env(Vec<Pair>),
    /// EXPOSE: its words, sorted as BuildKit sorts them.
    Expose(Vec<Word>),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// LABEL
    Label(Vec<Pair>),
    /// MAINTAINER
    Maintainer(Word),
    /// ONBUILD
    Onbuild(Onbuild),
    /// RUN
    Run(Run),
    /// SHELL
    Shell(Vec<Word>),
    /// STOPSIGNAL
    StopSignal(Word),
    /// USER
    User(Word),
    /// VOLUME
    Volume(Vec<Word>),
    /// WORKDIR
    Workdir(Word),
}

/// A command of RUN, CMD, ENTRYPOINT or HEALTHCHECK.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandLine {
    /// The JSON form: run as it is.
    Exec(Vec<Word>),
    /// A text for the shell.
    Shell(Word),
}

/// One `name[=default]` of ARG.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgItem {
    /// The name.
    pub name: Word,
    /// The default, with its quotes and variables.
    pub default: Option<Word>,
    /// What a comment above says about it.
    pub description: Option<String>,
}

/// Sources and destination of COPY and ADD, and the flags that both have.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Files, directories and (for ADD) remote sources.
    pub sources: Vec<Word>,
    /// Heredocs; they are copied after all others.
    pub inline: Vec<Heredoc>,
    /// Where to.
    pub destination: Word,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, never expanded.
    pub excludes: Vec<Word>,
}

/// COPY.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// What it shares with ADD.
    pub transfer: Transfer,
    /// `--from`: a stage's name or index, a named context, or an image. Never expanded.
    pub from: Option<Word>,
    /// `--parents`
    pub parents: bool,
}

/// ADD.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    /// What it shares with COPY.
    pub transfer: Transfer,
    /// `--checksum`
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, if it is there.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, if it is there.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK.
#[derive(Clone, Debug, PartialEq)]
pub enum Healthcheck {
    /// `NONE`: also not the one of the base.
    None,
    /// `CMD`
    Check {
        /// What to run.
        command: CommandLine,
        /// `--interval`; zero is the engine's default, as everywhere here.
        interval: Duration,
        /// `--timeout`
        timeout: Duration,
        /// `--start-period`
        start_period: Duration,
        /// `--start-interval`
        start_interval: Duration,
        /// `--retries`
        retries: u32,
    },
}

/// ONBUILD.
#[derive(Clone, Debug, PartialEq)]
pub struct Onbuild {
    /// The trigger as the image's configuration keeps it.
    pub expression: String,
    /// The trigger, if it is one that works.
    pub trigger: Option<Box<Instruction>>,
}

/// The network of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// As the build says.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// The host's.
    Host,
}

/// The privileges of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// As usual.
    #[default]
    Sandbox,
    /// All of them.
    Insecure,
}

/// A device of a RUN (CDI).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name; empty for whatever there is.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// RUN.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// What to run.
    pub command: CommandLine,
    /// The heredocs of its line.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, each as it was written. Their variables are those in force at this line, so they are read when it is
    /// evaluated.
    pub mounts: Vec<Word>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`
    pub devices: Vec<Device>,
}

/// What a RUN hands to the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// Program and arguments.
    Exec(Vec<String>),
    /// The last argument for the shell of the stage.
    Shell(String),
    /// A file with a `#!` line, to be seen by the step as `/dev/pipes/<name>` with mode 0755; the shell is given that path.
    File {
        /// The file's name.
        name: String,
        /// Its content.
        content: String,
    },
}

impl Script {
    /// Where a step sees the file of a script of this name.
    pub fn path(name: &str) -> String {
        format!("/dev/pipes/{name}")
    }

    /// Program and arguments, with `shell` in front of a text or a file.
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(argv) => argv.clone(),
            Self::Shell(text) => with_shell(shell, text.clone()),
            Self::File { name, .. } => with_shell(shell, Self::path(name)),
        }
    }
}

impl CommandLine {
    /// The `Test` of an image's health check.
    pub fn probe(&self) -> Vec<String> {
        match self {
            Self::Exec(words) => {
                std::iter::once("CMD".to_owned()).chain(words.iter().map(|word| word.text.clone())).collect()
            }
            Self::Shell(text) => vec!["CMD-SHELL".to_owned(), text.text.clone()],
        }
    }
}

impl Run {
    /// Puts command and heredocs together the way BuildKit does. A line that is nothing but a heredoc is the script itself;
    /// with other words on the line the shell sees the heredocs and deals with them.
    pub fn script(&self) -> Script {
        let text = match &self.command {
            CommandLine::Exec(words) => {
                return Script::Exec(words.iter().map(|word| word.text.clone()).collect());
            }
            CommandLine::Shell(text) => &text.text,
        };
        let Some(first) = self.heredocs.first() else { return Script::Shell(text.clone()) };
        if matches!(crate::heredoc::marker(text), Ok(Some(_))) {
            let content = first.content().into_owned();
            if content.starts_with("#!") {
                return Script::File { name: first.name.clone(), content };
            }
            return Script::Shell(content);
        }
        let mut script = text.clone();
        for heredoc in &self.heredocs {
            script.push('\n');
            script.push_str(&heredoc.body);
            script.push_str(&heredoc.name);
        }
        Script::Shell(script)
    }
}

impl Instruction {
    /// The name that messages use: the keyword in capitals.
    pub fn name(&self) -> String {
        self.keyword.text.to_uppercase()
    }

    /// The heredocs that belong to it.
    pub fn heredocs(&self) -> &[Heredoc] {
        match &self.kind {
            Kind::Add(add) => &add.transfer.inline,
            Kind::Copy(copy) => &copy.transfer.inline,
            Kind::Run(run) => &run.heredocs,
            _ => &[],
        }
    }
}

/// The instruction on one line, with its heredocs below: text that reads as the same instruction again.
impl std::fmt::Display for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Kind::Onbuild(onbuild) = &self.kind {
            return write!(f, "ONBUILD {}", onbuild.expression);
        }
        f.write_str(&self.text)?;
        for heredoc in self.heredocs() {
            write!(f, "\n{}{}", heredoc.body, heredoc.name)?;
        }
        Ok(())
    }
}
