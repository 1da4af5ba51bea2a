//! What `--cache-to` and `--cache-from` say.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wbuild_oci::Reference;
use wbuild_registry::{CredentialFiles, Rules};
use wbuild_remote::HttpUrl;
use wbuild_report::{Hint, nearest};

use crate::backend::LONGEST_GIVEN_TAG;
use crate::backend::{
    Backend, GhaBackend, HttpBackend, LocalBackend, Network, RegistryBackend, TurboBackend, TurboTeam,
};
use crate::error::in_one_line;

#[cfg(feature = "object-stores")]
mod objects;

#[cfg(feature = "object-stores")]
use crate::backend::{ObjectsBackend, ObjectsPlace};

/// Which of the two flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `--cache-from`.
    Import,
    /// `--cache-to`.
    Export,
}

impl Role {
    const fn flag(self) -> &'static str {
        match self {
            Self::Import => "--cache-from",
            Self::Export => "--cache-to",
        }
    }
}

/// How much is exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What a build needs in which nothing has changed: records, listings of trees, and layers.
    Min,
    /// What a build needs in which something has changed, too: the files of every step.
    #[default]
    Max,
}

/// A place as it was given.
#[derive(Clone, Debug)]
pub struct Place {
    kind: PlaceKind,
    /// `scope=`, if it was given.
    pub scope: Option<String>,
    /// `mode=`.
    pub mode: Mode,
    /// `mounts=`: whether cache mounts travel.
    pub mounts: bool,
    /// `logs=`: whether preimages are uploaded, which hold arguments and environments of steps.
    pub logs: bool,
}

#[derive(Clone, Debug)]
enum PlaceKind {
    Local(PathBuf),
    Http {
        url: HttpUrl,
        token: Option<Secret>,
    },
    Gha {
        url: HttpUrl,
        token: Secret,
    },
    Turbo {
        url: HttpUrl,
        token: Option<Secret>,
        team: TurboTeam,
    },
    Registry(Box<RegistryPlace>),
    #[cfg(feature = "object-stores")]
    Objects(ObjectsPlace),
}

#[derive(Clone, Debug)]
struct RegistryPlace {
    reference: Reference,
    rules: Rules,
    credentials: CredentialFiles,
}

/// Shown nowhere.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why the text of a flag names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{flag} {}`: {why}", text.escape_debug())]
pub struct PlaceError {
    flag: &'static str,
    /// What was given, without secrets.
    text: String,
    why: String,
    hint: String,
}

impl Hint for PlaceError {
    fn hints(&self) -> Vec<String> {
        vec![self.hint.clone()]
    }
}

/// Fields whose values are secret.
const SECRET: [&str; 7] =
    ["token", "ghtoken", "password", "access_key_id", "secret_access_key", "session_token", "sas_token"];

/// What buildx's exporters have for things that are decided otherwise here.
const IGNORED: [&str; 6] = [
    "ignore-error",
    "oci-mediatypes",
    "image-manifest",
    "compression",
    "compression-level",
    "force-compression",
];

type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The kinds of places: their names, an example, and what they read.
struct KindOf {
    name: &'static str,
    example: &'static str,
    read: fn(&mut Fields, Variables<'_>) -> Result<PlaceKind, PlaceError>,
}

const KINDS: &[KindOf] = &[
    KindOf {
        name: "local",
        example: "--cache-to type=local,dest=FOLDER or --cache-from type=local,src=FOLDER",
        read: local,
    },
    KindOf { name: "http", example: "type=http,url=https://cache.example/wbuild", read: http },
    KindOf { name: "turbo", example: "type=turbo,url=https://turbo.example,team=NAME", read: turbo },
    KindOf { name: "gha", example: "type=gha,scope=NAME", read: gha },
    KindOf { name: "registry", example: "type=registry,ref=registry.example/team/cache:web", read: registry },
    #[cfg(feature = "object-stores")]
    KindOf { name: "s3", example: "type=s3,region=eu-central-1,bucket=builds", read: objects::s3 },
    #[cfg(feature = "object-stores")]
    KindOf { name: "gcs", example: "type=gcs,bucket=builds", read: objects::gcs },
    #[cfg(feature = "object-stores")]
    KindOf {
        name: "azblob",
        example: "type=azblob,account_url=https://team.blob.core.windows.net,container=builds",
        read: objects::azblob,
    },
];

/// Where Turborepo's own cache is.
const TURBO_API: &str = "https://vercel.com/api";

fn local(fields: &mut Fields, _: Variables<'_>) -> Result<PlaceKind, PlaceError> {
    let name = match fields.role {
        Role::Export => "dest",
        Role::Import => "src",
    };
    Ok(PlaceKind::Local(fields.need(name)?.into()))
}

fn http(fields: &mut Fields, variable: Variables<'_>) -> Result<PlaceKind, PlaceError> {
    let url = fields.need("url")?;
    let url = fields.url(&url)?;
    let token =
        fields.take("token").or_else(|| variable("WBUILD_CACHE_TOKEN").filter(|token| !token.is_empty()));
    Ok(PlaceKind::Http { url, token: token.map(Secret) })
}

/// What is not given comes from the variables that `turbo` itself reads, and from those of Vercel's builds.
fn turbo(fields: &mut Fields, variable: Variables<'_>) -> Result<PlaceKind, PlaceError> {
    let said =
        |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
    let url = fields.take("url").or_else(|| said(&["TURBO_API"])).unwrap_or_else(|| TURBO_API.to_owned());
    let url = fields.url(&url)?;
    let token = fields.take("token").or_else(|| said(&["TURBO_TOKEN", "VERCEL_ARTIFACTS_TOKEN"]));
    if token.is_none() && url.authorization().is_none() {
        return Err(
            fields.error_with("there is no token".to_owned(), "set TURBO_TOKEN, or give token=".to_owned())
        );
    }
    let team = TurboTeam {
        id: fields.take("teamid").or_else(|| said(&["TURBO_TEAMID", "VERCEL_ARTIFACTS_OWNER"])),
        slug: fields.take("team").or_else(|| said(&["TURBO_TEAM"])),
    };
    Ok(PlaceKind::Turbo { url, token: token.map(Secret), team })
}

/// Both come from the variables that a runner gives to actions, and not to the commands of a job.
fn gha(fields: &mut Fields, variable: Variables<'_>) -> Result<PlaceKind, PlaceError> {
    let said = |name: &str| variable(name).filter(|value| !value.is_empty());
    let url = fields.take("url_v2").or_else(|| fields.take("url")).or_else(|| said("ACTIONS_RESULTS_URL"));
    let token = fields.take("token").or_else(|| said("ACTIONS_RUNTIME_TOKEN"));
    let (Some(url), Some(token)) = (url, token) else {
        let why = "ACTIONS_RESULTS_URL and ACTIONS_RUNTIME_TOKEN are not set".to_owned();
        let hint = "a runner gives them to actions only: the action `crazy-max/ghaction-github-runtime` passes them on";
        return Err(fields.error_with(why, hint.to_owned()));
    };
    Ok(PlaceKind::Gha { url: fields.url(&url)?, token: Secret(token) })
}

fn registry(fields: &mut Fields, variable: Variables<'_>) -> Result<PlaceKind, PlaceError> {
    let text = fields.need("ref")?;
    let reference: Reference =
        text.parse().map_err(|error: wbuild_oci::ReferenceParseError| fields.error(error.to_string()))?;
    if reference.digest.is_some() {
        return Err(fields.error("a digest cannot be written to".to_owned()));
    }
    if reference.tag.as_ref().is_some_and(|tag| tag.len() > LONGEST_GIVEN_TAG) {
        return Err(fields.error(format!("the tag has more than {LONGEST_GIVEN_TAG} characters")));
    }
    let rules = Rules::load(&variable).map_err(|error| {
        let hint = error.hints().into_iter().next().unwrap_or_default();
        fields.error_with(in_one_line(&error), hint)
    })?;
    let credentials = CredentialFiles::of_environment(&variable);
    Ok(PlaceKind::Registry(Box::new(RegistryPlace { reference, rules, credentials })))
}

impl Place {
    /// Reads `type=…,…`, or the name of a repository, which stands for `type=registry,ref=…`. Credentials that are not given come from variables.
    ///
    /// # Errors
    /// When it names no kind that there is, or a field is missing, unknown or malformed.
    pub fn parse(role: Role, text: &str, variable: Variables<'_>) -> Result<Self, PlaceError> {
        let mut fields = Fields {
            role,
            shown: String::new(),
            example: String::new(),
            scope: None,
            fields: BTreeMap::new(),
        };
        let mut shown = Vec::new();
        for part in text.split(',') {
            let (name, value) = match part.split_once('=') {
                Some(field) => field,
                None if part == text && !KINDS.iter().any(|kind| kind.name == text) && !text.is_empty() => {
                    fields.fields.insert("type".to_owned(), "registry".to_owned());
                    ("ref", part)
                }
                None => (part, ""),
            };
            let name = name.trim().to_ascii_lowercase();
            let user_info = value.contains('@') && value.contains("://");
            let hide = SECRET.contains(&name.as_str()) || user_info;
            shown.push(if hide { format!("{name}=…") } else { part.to_owned() });
            fields.fields.insert(name, value.to_owned());
        }
        fields.shown = shown.join(",");
        let place = fields.place(variable)?;
        match fields.fields.keys().next() {
            Some(name) => Err(fields.error(format!("`{}` means nothing here", name.escape_debug()))),
            None => Ok(place),
        }
    }

    /// The folder, of a place that is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.kind {
            PlaceKind::Local(folder) => Some(folder),
            _ => None,
        }
    }

    /// A client for it; nothing is asked yet.
    pub fn connect(&self, network: &Network) -> Arc<dyn Backend> {
        match &self.kind {
            PlaceKind::Local(folder) => Arc::new(LocalBackend::new(folder.clone())),
            PlaceKind::Http { url, token } => {
                Arc::new(HttpBackend::new(url.clone(), token.as_ref().map(|token| token.0.as_str()), network))
            }
            PlaceKind::Gha { url, token } => Arc::new(GhaBackend::new(url.clone(), &token.0, network)),
            PlaceKind::Turbo { url, token, team } => {
                let token = token.as_ref().map(|token| token.0.as_str());
                Arc::new(TurboBackend::new(url.clone(), token, team, network))
            }
            PlaceKind::Registry(place) => {
                let RegistryPlace { reference, rules, credentials } = place.as_ref().clone();
                Arc::new(RegistryBackend::new(reference, rules, credentials, network))
            }
            #[cfg(feature = "object-stores")]
            PlaceKind::Objects(place) => Arc::new(ObjectsBackend::new(place.clone(), network)),
        }
    }
}

struct Fields {
    role: Role,
    shown: String,
    example: String,
    /// As buildx has it for this kind, instead of `scope=`.
    scope: Option<String>,
    fields: BTreeMap<String, String>,
}

impl Fields {
    fn error(&self, why: String) -> PlaceError {
        self.error_with(why, format!("for example {}", self.example))
    }

    fn error_with(&self, why: String, hint: String) -> PlaceError {
        PlaceError { flag: self.role.flag(), text: self.shown.clone(), why, hint }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.fields.remove(name).filter(|value| !value.is_empty())
    }

    fn need(&mut self, name: &str) -> Result<String, PlaceError> {
        self.take(name).ok_or_else(|| self.error(format!("it needs {name}=")))
    }

    fn url(&self, text: &str) -> Result<HttpUrl, PlaceError> {
        HttpUrl::parse(text).map_err(|error| self.error(error.to_string()))
    }

    fn switch(&mut self, name: &str, default: bool) -> Result<bool, PlaceError> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => {
                let why = format!("`{name}` is `{}`", other.escape_debug());
                Err(self.error_with(why, format!("{name}=true or {name}=false")))
            }
        }
    }

    fn place(&mut self, variable: Variables<'_>) -> Result<Place, PlaceError> {
        let names = || KINDS.iter().map(|kind| kind.name);
        let all = || format!("types are {}", names().collect::<Vec<_>>().join(", "));
        let name = self.take("type").ok_or_else(|| self.error_with("it names no type".to_owned(), all()))?;
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let near = nearest(&name, names()).first().map(|near| format!("did you mean `{near}`?"));
            let why = format!("there is no cache of type `{}`", name.escape_debug());
            return Err(self.error_with(why, near.unwrap_or_else(all)));
        };
        kind.example.clone_into(&mut self.example);
        let place = (kind.read)(self, variable)?;
        let mode = match self.take("mode").as_deref() {
            None | Some("max") => Mode::Max,
            Some("min") => Mode::Min,
            Some(other) => {
                let why = format!("mode is `{}`", other.escape_debug());
                return Err(self.error_with(why, "mode=min or mode=max".to_owned()));
            }
        };
        self.fields.retain(|name, _| !IGNORED.contains(&name.as_str()));
        Ok(Place {
            kind: place,
            scope: self.take("scope").or(self.scope.take()),
            mode,
            mounts: self.switch("mounts", true)?,
            logs: self.switch("logs", false)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (String, Vec<String>) {
        let error = Place::parse(Role::Export, text, &|_| None).unwrap_err();
        (error.to_string(), error.hints())
    }

    #[test]
    fn places() {
        let place =
            Place::parse(Role::Import, "type=local,src=/c,scope=a/b,mode=min,mounts=false", &|_| None)
                .unwrap();
        assert_eq!(
            (place.scope.as_deref(), place.mode, place.mounts, place.logs),
            (Some("a/b"), Mode::Min, false, false)
        );
        let known =
            Place::parse(Role::Export, "type=http,url=http://h/c,ignore-error=true", &|_| None).unwrap();
        assert_eq!(known.connect(&Network::default()).place(), "http://h/c");
    }

    #[test]
    fn secrets_are_not_shown() {
        for text in ["type=http,url=http://me:s3cret@h/,x=1", "type=http,url=http://h/,token=s3cret,x=1"] {
            let (error, hints) = refused(text);
            assert!(!error.contains("s3cret") && error.contains("`x` means nothing here"), "{error}");
            assert_eq!(hints, ["for example type=http,url=https://cache.example/wbuild"]);
        }
        let place =
            Place::parse(Role::Export, "type=http,url=http://me:s3cret@h/", &|_| Some("s3cret".into()));
        assert!(!format!("{place:?}").contains("s3cret"));
    }

    #[test]
    fn turbo_reads_the_variables_of_turbo() {
        let variable = |name: &str| match name {
            "TURBO_API" => Some("http://cache.example/".to_owned()),
            "TURBO_TOKEN" => Some("s3cret".to_owned()),
            "TURBO_TEAM" => Some("web".to_owned()),
            _ => None,
        };
        let place = Place::parse(Role::Import, "type=turbo", &variable).unwrap();
        assert_eq!(place.connect(&Network::default()).place(), "http://cache.example/");
        assert!(!format!("{place:?}").contains("s3cret"));
        let (error, hints) = refused("type=turbo");
        assert!(error.ends_with("there is no token"), "{error}");
        assert_eq!(hints, ["set TURBO_TOKEN, or give token="]);
    }

    #[test]
    fn repositories() {
        for text in ["type=registry,ref=h:5/a/b:c,image-manifest=true,mode=min", "h:5/a/b:c"] {
            let place = Place::parse(Role::Import, text, &|_| None).unwrap();
            assert_eq!(place.connect(&Network::default()).place(), "h:5/a/b:c");
        }
        assert!(refused("type=registry").0.ends_with("it needs ref="));
        assert!(refused("h/A:c").0.contains("not a repository name"), "{:?}", refused("h/A:c"));
        assert!(refused("local").0.ends_with("it names no type"));
        assert!(refused(&format!("h/a:{}", "t".repeat(100))).0.contains("more than 96 characters"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(refused("type=htp").1, ["did you mean `http`?"]);
        assert!(refused("url=http://h").0.ends_with("it names no type"));
        assert!(refused("type=http,url=ftp://h").0.contains("only http and https"));
        assert!(refused("type=local").0.ends_with("it needs dest="));
    }
}
