//! Where the Dockerfile and the contexts come from.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use wbuild_context::{IgnoreRules, ListOptions, Policy};
use wbuild_dockerfile::{MAX_DOCKERFILE_BYTES, Source};
use wbuild_engine::{ContextPlace, Engine, EngineError, LeftOut, OpenedContext};
use wbuild_report::{EventSink, Hint, Warning};

use super::contexts::Contexts;
use crate::args::DockerfileArgs;
use crate::commands::{Failure, Session, listed};

/// What a build reads.
#[derive(Debug)]
pub(super) struct Opened {
    /// The Dockerfile.
    pub(super) source: Source,
    /// Names the project in explanations.
    pub(super) project: String,
    /// The rules of the main context's ignore file.
    pub(super) rules: IgnoreRules,
    /// What `SOURCE_DATE_EPOCH=context` means.
    pub(super) date: Option<i64>,
    /// What the names of other contexts mean there.
    pub(super) dates: BTreeMap<String, Option<i64>>,
    /// Where the main context is.
    pub(super) place: ContextPlace,
    /// What of the contexts is not in the build.
    pub(super) warnings: Vec<Warning>,
}

/// A Dockerfile that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the Dockerfile {shown}")]
struct DockerfileError {
    /// As a person knows it: where the files of a context lie that came from elsewhere is nobody's business.
    shown: String,
    #[source]
    source: std::io::Error,
}

impl Hint for DockerfileError {
    fn hints(&self) -> Vec<String> {
        match self.source.kind() {
            std::io::ErrorKind::NotFound => {
                vec!["name it with `-f FILE`; without it `Dockerfile` of the context is built".to_owned()]
            }
            std::io::ErrorKind::PermissionDenied => {
                vec!["make it readable for the user who builds".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Reads the Dockerfile and lists the contexts.
pub(super) fn open(
    args: &DockerfileArgs,
    contexts: &Contexts,
    engine: &mut Engine,
    session: &Session,
) -> Result<Opened, Failure> {
    let place = ContextPlace::parse(&args.context).map_err(|error| {
        Failure::usage(error.to_string(), "a context is a folder, -, a URL or a git repository")
    })?;
    let from_stdin = args.file.as_deref() == Some("-");
    if from_stdin && matches!(place, ContextPlace::Stdin) {
        return Err(Failure::usage(
            "standard input cannot be both the Dockerfile and the context",
            "give one of them as a file",
        ));
    }
    if let ContextPlace::Folder(folder) = &place
        && !folder.is_dir()
    {
        let message = match folder.exists() {
            true => format!("the context `{}` is not a folder", folder.display()),
            false => format!("the context `{}` does not exist", folder.display()),
        };
        return Err(Failure::usage(
            message,
            "a context is a folder, -, the URL of an archive or a git repository",
        ));
    }
    let fetch = |engine: &Engine, place: &ContextPlace| -> Result<OpenedContext, Failure> {
        // Downloads are short, and seen as steps of the build only when the Dockerfile names them.
        let events = EventSink::silent();
        Ok(engine.open_context(place, &mut std::io::stdin(), &events, &session.cancellation)?)
    };
    let context = fetch(engine, &place)?;
    let (source, path) = match (&context.dockerfile_text, args.file.as_deref()) {
        (Some(text), None) => (decode("Dockerfile", text.clone())?, None),
        _ => dockerfile(args, &place, &context.root)?,
    };
    let mut warnings = Vec::new();
    let mut dates = BTreeMap::new();
    warnings.extend(without_devices(&context, &place));
    let load = |context: &OpenedContext, dockerfile: Option<&Path>| -> Result<IgnoreRules, Failure> {
        if !context.apply_ignore_file {
            return Ok(IgnoreRules::none());
        }
        Ok(IgnoreRules::load(&context.root, dockerfile).map_err(EngineError::from)?)
    };
    let rules = load(&context, path.as_deref())?;
    let mut options = ListOptions::new(Policy::Dockerfile, rules.clone());
    for path in own_outputs(&context.root) {
        options = options.without_own(path);
    }
    let listed = engine.list_context(&context.root, options)?;
    engine.add_context("", listed);
    for (name, place) in &contexts.files {
        let named = fetch(engine, place)?;
        warnings.extend(without_devices(&named, place));
        dates.insert(name.clone(), named.date);
        let rules = load(&named, None)?;
        let listed = engine.list_context(&named.root, ListOptions::new(Policy::Dockerfile, rules))?;
        engine.add_context(name, listed);
    }
    let project = match &place {
        ContextPlace::Folder(folder) => std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone()),
        _ => PathBuf::from(&args.context),
    };
    Ok(Opened {
        source,
        project: project.display().to_string(),
        rules,
        date: context.date,
        dates,
        place,
        warnings,
    })
}

/// The devices that an archive has and the build does not.
fn without_devices(context: &OpenedContext, place: &ContextPlace) -> Option<Warning> {
    let count = context.without_devices.len();
    let named = context.without_devices.iter().take(LeftOut::EXAMPLES);
    let paths = listed(named, count);
    (count > 0).then(|| Warning {
        message: format!("left out of the build context: devices of {place}: {paths}"),
        hints: vec!["steps have the usual devices in /dev; leave these out of the archive".to_owned()],
    })
}

/// Files of the context that standard output and standard error go to: `wbuild build . > build.log`.
fn own_outputs(context: &Path) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let Ok(root) = std::fs::canonicalize(context) else { return Vec::new() };
    let target = |number: u32| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
    let inside =
        |path: PathBuf| path.strip_prefix(&root).ok().map(|path| path.as_os_str().as_bytes().to_vec());
    [1, 2].into_iter().filter_map(target).filter_map(inside).collect()
}

/// The Dockerfile and, if it is a file of this machine, its path. With a context from elsewhere a path given with `-f` is
/// one of that context.
fn dockerfile(
    args: &DockerfileArgs,
    place: &ContextPlace,
    context: &Path,
) -> Result<(Source, Option<PathBuf>), Failure> {
    let local = matches!(place, ContextPlace::Folder(_));
    let (name, path) = match args.file.as_deref() {
        Some("-") => {
            let bytes = read(&mut std::io::stdin()).map_err(|source| {
                Failure::new(DockerfileError { shown: "on standard input".to_owned(), source })
            })?;
            return Ok((decode("Dockerfile", bytes)?, None));
        }
        Some(given) if local => (given.to_owned(), PathBuf::from(given)),
        Some(given) => (given.to_owned(), inside(context, given)?),
        None => {
            let usual = context.join("Dockerfile");
            let lower = context.join("dockerfile");
            if !usual.exists() && lower.exists() {
                ("dockerfile".to_owned(), lower)
            } else {
                ("Dockerfile".to_owned(), usual)
            }
        }
    };
    let shown = match local {
        true => format!("`{}`", path.display()),
        false => format!("`{name}` of {place}"),
    };
    let wrong = |source| Failure::new(DockerfileError { shown: shown.clone(), source });
    let real = std::fs::canonicalize(&path).map_err(wrong)?;
    if !local && !std::fs::canonicalize(context).is_ok_and(|context| real.starts_with(context)) {
        return Err(wrong(std::io::Error::other("it leads out of the context")));
    }
    let metadata = std::fs::metadata(&real).map_err(wrong)?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "it is a directory" } else { "it is not a regular file" };
        return Err(wrong(std::io::Error::other(kind)));
    }
    let mut file = std::fs::File::open(&real).map_err(wrong)?;
    let bytes = read(&mut file).map_err(wrong)?;
    Ok((decode(&name, bytes)?, Some(path)))
}

/// A path of the context, which was made from something that nobody trusts.
fn inside(context: &Path, given: &str) -> Result<PathBuf, Failure> {
    let path = wbuild_tree::EntryPath::rooted(given)
        .map_err(|error| Failure::usage(error.to_string(), "name a file of the context with -f"))?;
    Ok(context.join(path.to_path_buf()))
}

/// One byte more than allowed at most, so that too large is told from just large enough.
fn read(from: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_DOCKERFILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(name: &str, bytes: Vec<u8>) -> Result<Source, Failure> {
    Source::decode(name, bytes).map_err(|diagnostic| Failure::Diagnostics(vec![*diagnostic]))
}
