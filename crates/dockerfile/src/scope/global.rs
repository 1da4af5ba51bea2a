use std::collections::BTreeMap;
use std::sync::Arc;

use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, Hint, SourceFile, Span};

use super::Env;
use crate::ast::{ArgItem, Dockerfile, Kind, Stage};
use crate::expand::{ExpandError, Lexer, Meter, Seen};
use crate::problem::Problem;
use crate::source::Word;
use crate::suggest::{did_you_mean, suggest};
use crate::values::platform;

/// Arguments that every Dockerfile knows without declaring them. They reach RUN, but neither key nor history.
pub const PROXY_ARGS: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that are set in the global scope; a stage declares those that it wants.
pub const PLATFORM_ARGS: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// Build arguments that speak to the builder.
pub const CONTROL_ARGS: [&str; 10] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
];

/// What the build was asked for, as far as variables can see it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `--target`
    pub target: Option<String>,
    /// Where the build runs.
    pub build_platform: Platform,
    /// What it is for.
    pub target_platform: Platform,
}

impl Settings {
    /// Nothing was asked for; built on and for `platform`.
    pub fn plain(platform: Platform) -> Self {
        Self {
            build_args: BTreeMap::new(),
            target: None,
            build_platform: platform.clone(),
            target_platform: platform,
        }
    }

    /// The proxies among the build arguments.
    pub fn proxies(&self) -> Option<Proxies> {
        let mut proxies = Proxies::default();
        let mut any = false;
        for (name, value) in &self.build_args {
            let place = match name.to_ascii_uppercase().as_str() {
                "HTTP_PROXY" => &mut proxies.http,
                "HTTPS_PROXY" => &mut proxies.https,
                "FTP_PROXY" => &mut proxies.ftp,
                "NO_PROXY" => &mut proxies.no,
                "ALL_PROXY" => &mut proxies.all,
                _ => continue,
            };
            place.clone_from(value);
            any = true;
        }
        any.then_some(proxies)
    }
}

/// Proxies for RUN. Each reaches the step in both spellings, upper and lower case; none is part of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTP_PROXY`
    pub http: String,
    /// `HTTPS_PROXY`
    pub https: String,
    /// `FTP_PROXY`
    pub ftp: String,
    /// `NO_PROXY`
    pub no: String,
    /// `ALL_PROXY`
    pub all: String,
}

/// `SOURCE_DATE_EPOCH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// Seconds since 1970.
    Seconds(i64),
    /// The time of the main context: `context`.
    Context,
    /// The time of a named context or of a stage that holds one remote file.
    Named(String),
}

impl std::str::FromStr for Epoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse() {
            return Ok(Self::Seconds(seconds));
        }
        let is_name = !text.is_empty()
            && !text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
            && text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        match text {
            "context" => Ok(Self::Context),
            name if is_name => Ok(Self::Named(name.to_owned())),
            other => Err(format!("invalid SOURCE_DATE_EPOCH: {other}")),
        }
    }
}

/// The variables of FROM lines.
#[derive(Clone, Debug)]
pub struct GlobalScope {
    pub(super) settings: Arc<Settings>,
    pub(super) env: Env,
    /// Names of global ARGs, also of those without a value.
    declared: Vec<String>,
    pub(super) meter: Meter,
    pub(super) escape: char,
    file: Arc<SourceFile>,
}

/// A FROM line with its variables expanded.
#[derive(Clone, Debug)]
pub struct FromLine {
    /// The base: `scratch`, a stage, or an image.
    pub base: String,
    /// `--platform`
    pub platform: Option<Platform>,
    /// The variables that the base's name asked for.
    pub base_seen: Seen,
    /// The text and the variables of `--platform`.
    pub platform_seen: Option<(String, Seen)>,
}

impl GlobalScope {
    /// Evaluates the ARGs before the first FROM.
    pub fn new(dockerfile: &Dockerfile, settings: Settings) -> Result<Self, Box<Diagnostic>> {
        Self::metered(dockerfile, settings, Meter::new())
    }

    /// The scope as if nothing had been given with `--build-arg`, except platforms. Lint rules ask whether it still works.
    pub(crate) fn with_defaults(&self, dockerfile: &Dockerfile) -> Result<Self, Box<Diagnostic>> {
        let mut settings = Settings::clone(&self.settings);
        settings.build_args.retain(|name, _| PLATFORM_ARGS.contains(&name.as_str()));
        Self::metered(dockerfile, settings, self.meter.clone())
    }

    fn metered(dockerfile: &Dockerfile, settings: Settings, meter: Meter) -> Result<Self, Box<Diagnostic>> {
        let last = dockerfile.stages.last().map_or("", |stage| stage.name.as_str());
        let target = match settings.target.as_deref() {
            Some(target) if !target.is_empty() => target,
            _ if last.is_empty() => "default",
            _ => last,
        };
        let (build, wanted) = (&settings.build_platform, &settings.target_platform);
        let version = |platform: &Platform| match platform.rest.get("os.version") {
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let values = [
            build.to_string(),
            build.os.clone(),
            version(build),
            build.architecture.clone(),
            build.variant.clone().unwrap_or_default(),
            wanted.to_string(),
            wanted.os.clone(),
            version(wanted),
            wanted.architecture.clone(),
            wanted.variant.clone().unwrap_or_default(),
            target.to_owned(),
        ];
        let mut env = Env::default();
        for (name, value) in PLATFORM_ARGS.into_iter().zip(&values) {
            env.set(name, settings.build_args.get(name).unwrap_or(value));
        }
        let mut scope = Self {
            settings: Arc::new(settings),
            env,
            declared: Vec::new(),
            meter,
            escape: dockerfile.directives.escape,
            file: Arc::clone(&dockerfile.file),
        };
        for instruction in &dockerfile.globals {
            if let Kind::Arg(items) = &instruction.kind {
                for item in items {
                    scope.declare(item)?;
                }
            }
        }
        Ok(scope)
    }

    fn declare(&mut self, item: &ArgItem) -> Result<(), Box<Diagnostic>> {
        let name = &item.name.text;
        let value = match (self.settings.build_args.get(name), &item.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => {
                let expanded = self.lexer().expand(&default.text, &self.env);
                Some(expanded.map_err(|error| expand_error(&self.file, default, &error))?)
            }
            (None, None) => None,
        };
        if let Some(value) = value {
            self.env.set(name, &value);
            if self.env.bytes() > super::MAX_STAGE_BYTES {
                return Err(too_much(&self.file, item.name.span, "before the first FROM"));
            }
        }
        self.declared.push(name.clone());
        Ok(())
    }

    /// The variables in force.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// What the build was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The value of `SOURCE_DATE_EPOCH`, of a build argument or of a global ARG.
    pub fn source_date_epoch(&self) -> Option<&str> {
        match self.settings.build_args.get("SOURCE_DATE_EPOCH") {
            Some(value) => Some(value),
            None => self.env.get("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty()),
        }
    }

    pub(super) fn lexer(&self) -> Lexer {
        Lexer { meter: self.meter.clone(), ..Lexer::new(self.escape) }
    }

    /// The names of all global ARGs, with or without a value.
    pub fn declared(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(String::as_str)
    }

    /// The base of a FROM line, which may be empty.
    pub(crate) fn base_text(&self, stage: &Stage) -> Result<String, Box<Diagnostic>> {
        self.expand(&stage.base, &mut Seen::default())
    }

    /// The variables that a word of a FROM line asks for, as far as it can be expanded.
    pub(crate) fn seen_in(&self, word: &Word) -> Seen {
        let mut seen = Seen::default();
        // What is wrong with it is said where it is evaluated.
        let _ = self.expand(word, &mut seen);
        seen
    }

    /// Evaluates a FROM line.
    pub fn from_line(&self, stage: &Stage) -> Result<FromLine, Box<Diagnostic>> {
        let mut base_seen = Seen::default();
        let base = self.expand(&stage.base, &mut base_seen)?;
        if base.is_empty() {
            let unset: Vec<&str> = base_seen.unset.keys().map(String::as_str).collect();
            let mut problem =
                Problem::new(format!("base name ({}) should not be blank", stage.base.text), stage.base.span)
                    .label("expands to nothing");
            for name in unset {
                let found = suggest(name, self.env.names());
                problem = match found {
                    Some(found) => problem.hint(format!("`{name}` is not set; did you mean `{found}`?")),
                    None => problem.hint(format!(
                        "give `{name}` a value: `ARG {name}=…` above, or `--build-arg {name}=…`"
                    )),
                };
            }
            return Err(Box::new(problem.error(&self.file)));
        }
        let mut line = FromLine { base, platform: None, base_seen, platform_seen: None };
        if let Some(word) = &stage.platform {
            let mut seen = Seen::default();
            let text = self.expand(word, &mut seen)?;
            let found = seen.unset.keys().find_map(|name| suggest(name, self.env.names()));
            if text.is_empty() {
                return Err(Box::new(
                    Problem::new(
                        format!("empty platform value from expression {}{}", word.text, did_you_mean(found)),
                        word.span,
                    )
                    .label("expands to nothing")
                    .hint("FROM sees ARGs from before the first FROM only")
                    .error(&self.file),
                ));
            }
            let parsed = platform(&text, &self.settings.build_platform).map_err(|error| {
                let message =
                    format!("failed to parse platform {}: {error}{}", word.text, did_you_mean(found));
                Box::new(
                    Problem::new(message, word.span).hint("write `--platform=linux/arm64`").error(&self.file),
                )
            })?;
            line.platform = Some(parsed);
            line.platform_seen = Some((text, seen));
        }
        Ok(line)
    }

    fn expand(&self, word: &Word, seen: &mut Seen) -> Result<String, Box<Diagnostic>> {
        self.lexer()
            .expand_seen(&word.text, &self.env, seen)
            .map_err(|error| expand_error(&self.file, word, &error))
    }
}

/// An expansion that failed, at its place in the word.
pub(super) fn expand_error(file: &Arc<SourceFile>, word: &Word, error: &ExpandError) -> Box<Diagnostic> {
    let problem = Problem::new(error.to_string(), word.part(error.at.clone())).hints(error.hints());
    Box::new(problem.error(file))
}

/// Too many variables, or too large ones.
pub(super) fn too_much(file: &Arc<SourceFile>, span: Span, whose: &str) -> Box<Diagnostic> {
    let message = format!("the variables {whose} take more than {} bytes", super::MAX_STAGE_BYTES);
    Box::new(
        Problem::new(message, span)
            .label("this one is too much")
            .hint("keep large text in a file")
            .error(file),
    )
}
