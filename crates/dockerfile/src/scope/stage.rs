use std::sync::Arc;

use wbuild_report::{Diagnostic, Span};

use super::Env;
use super::global::{GlobalScope, expand_error, too_much};
use super::mount::{self, Mount, MountError};
use super::persistent::Persistent;
use super::step::{Command, InlineFile, RunStep, Step, TransferSource, TransferStep};
use crate::ast::{ArgItem, CommandLine, Copy, Instruction, Kind, Run, Transfer};
use crate::expand::{Lexer, Seen};
use crate::heredoc::Heredoc;
use crate::problem::Problem;
use crate::source::Word;
use crate::statement::Pair;
use crate::suggest::suggest;
use crate::values::{Chmod, Owner, Port, PortSpec, Remote, is_signal};

/// What the variables of one stage may take, names and values.
pub const MAX_STAGE_BYTES: usize = 1024 * 1024;

/// `PATH` where a base image has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What comparing one character of a name with all those of another costs, in units of the meter.
const SUGGESTION_COST: usize = 16;

/// More ports than an image could have are a mistake, not a list.
const MAX_PORTS: usize = 200_000;

/// These arguments are for the builder; RUN does not see them.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What a stage inherits from an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseFacts {
    /// `Env` of its configuration.
    pub env: Vec<(String, String)>,
    /// `WorkingDir`; empty is the root.
    pub workdir: String,
}

/// A variable that was used although nothing sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undefined {
    /// Its name.
    pub name: String,
    /// Where.
    pub span: Span,
    /// A variable that may have been meant.
    pub near: Option<String>,
}

/// An instruction, evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What there is to do.
    pub step: Step,
    /// Variables that nothing sets, for the lint.
    pub undefined: Vec<Undefined>,
    /// The words of EXPOSE, for the lint; they say more than the ports.
    pub ports: Vec<(String, PortSpec)>,
    /// The path of WORKDIR before it was joined to the one before, for the lint.
    pub written_workdir: Option<String>,
}

/// The variables of a stage while its instructions are walked.
#[derive(Clone, Debug)]
pub struct StageScope {
    global: Arc<GlobalScope>,
    /// ENV, ARG and what the base has: what RUN sees, and what words are expanded with.
    env: Env,
    /// ENV and what the base has: what the image's configuration gets.
    image_env: Env,
    /// Declared ARGs in the order of their first declaration, with the value of the last one.
    declared: Persistent<Option<Arc<str>>>,
    workdir: String,
    /// Labels count too; nothing else holds on to expanded text.
    label_bytes: usize,
    /// Whether that is too much: nothing is added any more.
    full: bool,
}

impl StageScope {
    /// A stage on an image; `scratch` has no facts.
    pub fn new(global: &Arc<GlobalScope>, base: &BaseFacts) -> Self {
        let mut env: Env = base.env.iter().map(|(name, value)| (name, value)).collect();
        if env.get("PATH").is_none() {
            env.set("PATH", DEFAULT_PATH);
        }
        Self {
            global: Arc::clone(global),
            image_env: env.clone(),
            env,
            declared: Persistent::default(),
            workdir: joined("/", &base.workdir),
            label_bytes: 0,
            full: false,
        }
    }

    /// A stage on top of this one, as it is now: `FROM stage`.
    #[must_use]
    pub fn child(&self) -> Self {
        self.clone()
    }

    /// What RUN sees and every key has: ENV and ARG together. Of two with one name the later one counts.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// What the image's configuration gets.
    pub fn image_env(&self) -> &Env {
        &self.image_env
    }

    /// The current working directory.
    pub fn workdir(&self) -> &str {
        &self.workdir
    }

    /// The declared ARGs in the order of their first declaration, each with the value in force: what history shows as
    /// `|N name=value …`.
    pub fn declared(&self) -> Vec<(&str, &str)> {
        let in_force = |name| self.env.get(name);
        let declared = self.declared.ordered().into_iter();
        declared.map(|(name, own)| (name, in_force(name).or(own.as_deref()).unwrap_or_default())).collect()
    }

    /// Evaluates the next instruction.
    pub fn apply(&mut self, instruction: &Instruction) -> Result<Applied, Box<Diagnostic>> {
        self.apply_noting(instruction).map_err(|(error, _)| error)
    }

    /// As [`Self::apply`]; an error comes with the undefined variables that were seen before it.
    pub(crate) fn apply_noting(
        &mut self,
        instruction: &Instruction,
    ) -> Result<Applied, (Box<Diagnostic>, Vec<Undefined>)> {
        let mut walk = Walk {
            scope: self,
            instruction,
            undefined: Vec::new(),
            ports: Vec::new(),
            written_workdir: None,
        };
        let step = walk.step();
        let Walk { undefined, ports, written_workdir, .. } = walk;
        match step {
            Ok(step) => Ok(Applied { step, undefined, ports, written_workdir }),
            Err(error) => Err((error, undefined)),
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.set(name, value);
    }
}

/// One instruction under way.
struct Walk<'a> {
    scope: &'a mut StageScope,
    instruction: &'a Instruction,
    undefined: Vec<Undefined>,
    ports: Vec<(String, PortSpec)>,
    written_workdir: Option<String>,
}

type Evaluated<T> = Result<T, Box<Diagnostic>>;

impl Walk<'_> {
    fn fail<T>(&self, problem: Problem) -> Evaluated<T> {
        Err(Box::new(problem.error(&self.instruction.file)))
    }

    fn step(&mut self) -> Evaluated<Step> {
        let instruction = self.instruction;
        Ok(match &instruction.kind {
            Kind::Add(add) => {
                let mut step = self.transfer(&add.transfer, None)?;
                step.unpack = add.unpack;
                self.add_options(&mut step, add.checksum.as_ref(), add.keep_git_dir)?;
                Step::Add(Box::new(step))
            }
            Kind::Copy(Copy { transfer, from, parents }) => {
                let mut step = self.transfer(transfer, Some("COPY"))?;
                step.from = from.as_ref().map(|from| from.text.clone());
                step.parents = *parents;
                Step::Copy(Box::new(step))
            }
            Kind::Arg(items) => {
                let declared = items.iter().map(|item| self.arg(item)).collect::<Evaluated<_>>()?;
                Step::Arg(declared)
            }
            Kind::Cmd(line) => Step::Cmd(command(line)),
            Kind::Entrypoint(line) => Step::Entrypoint(command(line)),
            Kind::Env(pairs) => Step::Env(self.env(pairs)?),
            Kind::Expose(words) => Step::Expose(self.expose(words)?),
            Kind::Healthcheck(check) => Step::Healthcheck(check.clone()),
            Kind::Label(pairs) => {
                let labels = self.pairs(pairs)?;
                self.scope.label_bytes +=
                    labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                self.check_size(instruction.keyword.span)?;
                Step::Label(labels)
            }
            Kind::Maintainer(name) => Step::Maintainer(name.text.clone()),
            Kind::Onbuild(onbuild) => Step::Onbuild(onbuild.expression.clone()),
            Kind::Run(run) => Step::Run(Box::new(self.run(run)?)),
            Kind::Shell(words) => Step::Shell(texts(words)),
            Kind::StopSignal(word) => Step::StopSignal(self.stop_signal(word)?),
            Kind::User(word) => Step::User(self.user(word)?),
            Kind::Volume(words) => Step::Volume(self.volumes(words)?),
            Kind::Workdir(word) => {
                let path = self.expand(word)?;
                self.scope.workdir = match path.as_str() {
                    "" => self.scope.workdir.clone(),
                    // An absolute path is kept as it was written.
                    path if path.starts_with('/') => path.to_owned(),
                    path => joined(&self.scope.workdir, path),
                };
                self.written_workdir = Some(path);
                Step::Workdir(self.scope.workdir.clone())
            }
        })
    }

    fn expand(&mut self, word: &Word) -> Evaluated<String> {
        let lexer = self.scope.global.lexer();
        self.expand_with(&lexer, &word.text, word)
    }

    fn expand_with(&mut self, lexer: &Lexer, text: &str, place: &Word) -> Evaluated<String> {
        let mut seen = Seen::default();
        let result = lexer.expand_seen(text, &self.scope.env, &mut seen);
        for (name, at) in seen.unset {
            // A declared ARG without a value is not forgotten, just empty.
            if self.scope.declared.get(&name).is_some() || NOT_IN_ENVIRONMENT.contains(&name.as_str()) {
                continue;
            }
            // Comparing names costs; a file of nothing but mistakes pays for it like for everything else.
            let names = self.scope.env.names();
            let near = match lexer.meter.charge(names.len() * name.len() * SUGGESTION_COST) {
                Ok(()) => suggest(&name, names).map(str::to_owned),
                Err(_) => None,
            };
            self.undefined.push(Undefined { span: place.part(at), name, near });
        }
        result.map_err(|error| expand_error(&self.instruction.file, place, &error))
    }

    /// Said once a stage.
    fn check_size(&mut self, span: Span) -> Evaluated<()> {
        if !self.scope.full && self.scope.env.bytes() + self.scope.label_bytes > MAX_STAGE_BYTES {
            self.scope.full = true;
            return Err(too_much(&self.instruction.file, span, "and labels of this stage"));
        }
        Ok(())
    }

    /// Keys and values are expanded with what was in force before the instruction.
    fn pairs(&mut self, pairs: &[Pair]) -> Evaluated<Vec<(String, String)>> {
        pairs.iter().map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?))).collect()
    }

    fn env(&mut self, pairs: &[Pair]) -> Evaluated<Vec<(String, String)>> {
        let values = self.pairs(pairs)?;
        for ((name, value), pair) in values.iter().zip(pairs) {
            if name.is_empty() {
                return self.fail(
                    Problem::new("ENV names can not be blank", pair.key.span)
                        .label("expands to nothing")
                        .hint("write `name=value`"),
                );
            }
            if !self.scope.full {
                self.scope.set(name, value);
                self.scope.image_env.set(name, value);
            }
        }
        self.check_size(self.instruction.keyword.span)?;
        Ok(values)
    }

    fn arg(&mut self, item: &ArgItem) -> Evaluated<(String, Option<String>)> {
        let name = &item.name.text;
        let given = self.scope.global.settings.build_args.get(name).cloned();
        let value = match (given, &item.default) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => Some(self.expand(default)?),
            (None, None) => self.scope.global.env.get(name).map(str::to_owned),
        };
        if let Some(value) = &value
            && !NOT_IN_ENVIRONMENT.contains(&name.as_str())
            && !self.scope.full
        {
            self.scope.set(name, value);
            self.check_size(item.name.span)?;
        }
        self.scope.declared.set(name, value.as_deref().map(Arc::from));
        Ok((name.clone(), value))
    }

    fn expose(&mut self, words: &[Word]) -> Evaluated<Vec<Port>> {
        let lexer = self.scope.global.lexer();
        let mut ports = Vec::new();
        for word in words {
            let fields = lexer
                .expand_words(&word.text, &self.scope.env)
                .map_err(|error| expand_error(&self.instruction.file, word, &error))?;
            for field in fields {
                let spec: PortSpec = match field.parse() {
                    Ok(spec) => spec,
                    Err(error) => {
                        return self.fail(
                            Problem::new(format!("{error}"), word.span)
                                .hint("write `port`, `port/udp` or `first-last`, with ports up to 65535"),
                        );
                    }
                };
                ports.extend(spec.ports());
                if ports.len() > MAX_PORTS || lexer.meter.charge(usize::from(spec.last - spec.first)).is_err()
                {
                    return self.fail(Problem::new("EXPOSE lists more ports than there are", word.span));
                }
                self.ports.push((field, spec));
            }
        }
        Ok(ports)
    }

    fn stop_signal(&mut self, word: &Word) -> Evaluated<String> {
        let signal = self.expand(word)?;
        if is_signal(&signal) {
            return Ok(signal);
        }
        self.fail(
            Problem::new(format!("invalid signal: {signal}"), word.span)
                .hint("write a name such as `SIGTERM`, or a number"),
        )
    }

    fn user(&mut self, word: &Word) -> Evaluated<String> {
        let user = self.expand(word)?;
        let numbers =
            user.split(':').filter(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        let too_large =
            numbers.into_iter().any(|part| part.parse::<u32>().map_or(true, |id| id > Owner::MAX));
        if user.matches(':').count() > 1 || too_large {
            return self.fail(
                Problem::new(format!("invalid USER: '{user}'"), word.span)
                    .hint(format!("write `user` or `user:group`; ids go up to {}", Owner::MAX)),
            );
        }
        Ok(user)
    }

    fn volumes(&mut self, words: &[Word]) -> Evaluated<Vec<String>> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return self.fail(
                    Problem::new("VOLUME specified can not be an empty string", word.span)
                        .label("expands to nothing"),
                );
            }
            volumes.push(volume);
        }
        Ok(volumes)
    }

    fn run(&mut self, run: &Run) -> Evaluated<RunStep> {
        let workdir = self.scope.workdir.clone();
        let mut mounts: Vec<Mount> = Vec::new();
        for flag in &run.mounts {
            let mount =
                mount::read(flag, &workdir, |value| self.expand(value)).map_err(|error| match error {
                    MountError::Problem(problem) => Box::new(problem.error(&self.instruction.file)),
                    MountError::Expand(diagnostic) => diagnostic,
                })?;
            mounts.push(mount);
        }
        Ok(RunStep {
            script: run.script(),
            mounts,
            network: run.network,
            security: run.security,
            devices: run.devices.clone(),
        })
    }

    /// What COPY and ADD share. `copy` says that remote sources are not allowed.
    fn transfer(&mut self, transfer: &Transfer, copy: Option<&str>) -> Evaluated<TransferStep> {
        let chown = transfer.chown.as_ref().map(|word| self.owner(word)).transpose()?.flatten();
        let chmod = transfer.chmod.as_ref().map(|word| self.chmod(word)).transpose()?.flatten();
        let mut sources = Vec::new();
        for word in &transfer.sources {
            let text = self.expand(word)?;
            let remote = match Remote::of(&text) {
                Ok(remote) => remote,
                Err(error) => {
                    let keys = "the keys are `ref`, `tag`, `branch`, `commit`, `subdir`, `keep-git-dir`, `submodules`, \
                                `mtime` and `fetch-by-commit`";
                    return self.fail(Problem::new(error.to_string(), word.span).hint(keys));
                }
            };
            let source = match (remote, copy) {
                (None, _) => TransferSource::Path(text.clone()),
                (Some(remote), None) => TransferSource::Remote(remote),
                (Some(Remote::Http(_)), Some(_)) => {
                    return self.fail(Problem::new("source can't be a URL for COPY", word.span).hint(
                        format!("write `ADD {text} …`, with `--checksum=sha256:…` if it never changes"),
                    ));
                }
                (Some(Remote::Git(_)), Some(_)) => {
                    return self.fail(
                        Problem::new("source can't be a git ref for COPY", word.span)
                            .hint(format!("write `ADD {text} …`")),
                    );
                }
            };
            sources.push((text, source));
        }
        let destination = self.expand(&transfer.destination)?;
        let inline = transfer.inline.iter().map(|heredoc| self.inline(heredoc)).collect::<Evaluated<_>>()?;
        Ok(TransferStep {
            sources,
            inline,
            target: target(&self.scope.workdir, &destination),
            destination,
            from: None,
            chown,
            chmod,
            link: transfer.link,
            parents: false,
            excludes: texts(&transfer.excludes),
            checksum: None,
            commit: None,
            unpack: None,
            keep_git_dir: false,
        })
    }

    fn inline(&mut self, heredoc: &Heredoc) -> Evaluated<InlineFile> {
        let mut content = heredoc.content().into_owned();
        if heredoc.expand {
            let lexer = Lexer::for_heredoc(&content, self.scope.global.meter.clone());
            let place = Word::new(content.as_str(), heredoc.body_span);
            content = self.expand_with(&lexer, &place.text, &place)?;
        }
        Ok(InlineFile { name: heredoc.name.clone(), content })
    }

    fn owner(&mut self, word: &Word) -> Evaluated<Option<(String, Owner)>> {
        let text = self.expand(word)?;
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse() {
            Ok(owner) => Ok(Some((text, owner))),
            Err(error) => self.fail(
                Problem::new(format!("{error}"), word.span)
                    .hint("write `--chown=user`, `--chown=user:group`, or numbers"),
            ),
        }
    }

    fn chmod(&mut self, word: &Word) -> Evaluated<Option<(String, Chmod)>> {
        let text = self.expand(word)?;
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse() {
            Ok(chmod) => Ok(Some((text, chmod))),
            Err(error) => self.fail(
                Problem::new(format!("{error}"), word.span)
                    .label("not a mode")
                    .hint("write octal digits (`--chmod=755`) or changes (`--chmod=u=rwX,go=rX`)"),
            ),
        }
    }

    /// Checks `--checksum` and `--keep-git-dir` against the sources.
    fn add_options(
        &mut self,
        step: &mut TransferStep,
        checksum: Option<&Word>,
        keep: Option<bool>,
    ) -> Evaluated<()> {
        let checksum = match checksum {
            Some(word) => Some((word, self.expand(word)?)).filter(|(_, text)| !text.is_empty()),
            None => None,
        };
        if let Some((word, _)) = &checksum
            && step.sources.len() != 1
        {
            return self.fail(
                Problem::new("checksum can't be specified for multiple sources", word.span)
                    .hint("write one ADD for each source"),
            );
        }
        step.keep_git_dir = keep.unwrap_or_default();
        for (text, source) in &step.sources {
            match source {
                TransferSource::Remote(Remote::Http(_)) => {
                    if let Some((word, text)) = &checksum {
                        match text.parse() {
                            Ok(digest) => step.checksum = Some(digest),
                            Err(error) => {
                                let hint = "`sha256sum FILE` prints it; write `sha256:` before";
                                return self.fail(Problem::new(format!("{error}"), word.span).hint(hint));
                            }
                        }
                    }
                }
                TransferSource::Remote(Remote::Git(git)) => {
                    if let (Some(flag), Some(key)) = (keep, git.keep_git_dir)
                        && flag != key
                    {
                        return self.fail(
                            Problem::new(
                                "inconsistent keep-git-dir configuration",
                                self.instruction.keyword.span,
                            )
                            .hint(format!("`--keep-git-dir` and `{text}` disagree: keep one of them")),
                        );
                    }
                    step.keep_git_dir = git.keep_git_dir.or(keep).unwrap_or_default();
                    let flag = checksum.as_ref().map(|(_, text)| text);
                    if let (Some(flag), Some(key)) = (flag, &git.checksum)
                        && flag != key
                    {
                        let problem = Problem::new(
                            format!("checksum mismatch {flag:?} != {key:?}"),
                            self.instruction.keyword.span,
                        );
                        return self.fail(problem.hint("the flag and the URL name different commits"));
                    }
                    step.commit = git.checksum.clone().or(flag.cloned());
                }
                TransferSource::Path(_) => {
                    if let Some((word, _)) = &checksum {
                        return self.fail(
                            Problem::new("checksum requires HTTP(S) or Git sources", word.span)
                                .hint("files of the context are always checked; remove the flag"),
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

fn command(line: &CommandLine) -> Command {
    match line {
        CommandLine::Exec(words) => Command::Exec(texts(words)),
        CommandLine::Shell(text) => Command::Shell(text.text.clone()),
    }
}

/// `path` seen from `base`, without `.`, `..` and doubled slashes.
pub(super) fn joined(base: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A destination from the root, with the ending that makes it a directory.
fn target(workdir: &str, destination: &str) -> String {
    let directory =
        matches!(destination, "" | ".") || destination.ends_with('/') || destination.ends_with("/.");
    let mut path = joined(workdir, destination);
    if directory && path != "/" {
        path.push('/');
    }
    path
}
