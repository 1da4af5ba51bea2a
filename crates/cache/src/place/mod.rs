//! What `--cache-to` and `--cache-from` say: one type for each kind of place, which reads its fields and connects.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wbuild_report::{Hint, nearest};

use crate::backend::{Backend, Network};

mod fields;
mod local;
#[cfg(feature = "object-stores")]
mod objects;
mod registry;
mod servers;

use fields::Fields;
use local::LocalPlace;
use registry::RegistryPlace;
use servers::{GhaPlace, HttpPlace, TurboPlace};

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

/// How long an index may take where nobody says it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A place as it was given.
#[derive(Clone, Debug)]
pub struct Place {
    kind: PlaceKind,
    /// `timeout=`: how long a request may stand still.
    timeout: Option<Duration>,
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
    Local(LocalPlace),
    Http(HttpPlace),
    Gha(GhaPlace),
    Turbo(TurboPlace),
    Registry(Box<RegistryPlace>),
    #[cfg(feature = "object-stores")]
    Objects(ObjectsPlace),
}

/// Shown nowhere.
#[derive(Clone)]
struct Secret(String);

impl Secret {
    /// For who sends it.
    fn tell(&self) -> &str {
        &self.0
    }
}

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
        read: |fields, _| LocalPlace::read(fields).map(PlaceKind::Local),
    },
    KindOf {
        name: "http",
        example: "type=http,url=https://cache.example/wbuild",
        read: |fields, variable| HttpPlace::read(fields, variable).map(PlaceKind::Http),
    },
    KindOf {
        name: "turbo",
        example: "type=turbo,url=https://turbo.example,team=NAME",
        read: |fields, variable| TurboPlace::read(fields, variable).map(PlaceKind::Turbo),
    },
    KindOf {
        name: "gha",
        example: "type=gha,scope=NAME",
        read: |fields, variable| GhaPlace::read(fields, variable).map(PlaceKind::Gha),
    },
    KindOf {
        name: "registry",
        example: "type=registry,ref=registry.example/team/cache:web",
        read: |fields, variable| {
            RegistryPlace::read(fields, variable).map(|place| PlaceKind::Registry(Box::new(place)))
        },
    },
    #[cfg(feature = "object-stores")]
    KindOf {
        name: "s3",
        example: "type=s3,region=eu-central-1,bucket=builds",
        read: |fields, variable| objects::s3(fields, variable).map(PlaceKind::Objects),
    },
    #[cfg(feature = "object-stores")]
    KindOf {
        name: "gcs",
        example: "type=gcs,bucket=builds",
        read: |fields, variable| objects::gcs(fields, variable).map(PlaceKind::Objects),
    },
    #[cfg(feature = "object-stores")]
    KindOf {
        name: "azblob",
        example: "type=azblob,account_url=https://team.blob.core.windows.net,container=builds",
        read: |fields, variable| objects::azblob(fields, variable).map(PlaceKind::Objects),
    },
];

impl Place {
    /// Reads `type=…,…`, or the name of a repository, which stands for `type=registry,ref=…`. Credentials that are not given come from variables.
    ///
    /// # Errors
    /// When it names no kind that there is, or a field is missing, unknown or malformed.
    pub fn parse(role: Role, text: &str, variable: Variables<'_>) -> Result<Self, PlaceError> {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let mut fields = Fields::split(role, text, &names);
        let place = Self::read(&mut fields, &names, variable)?;
        fields.end()?;
        Ok(place)
    }

    fn read(fields: &mut Fields, names: &[&str], variable: Variables<'_>) -> Result<Self, PlaceError> {
        let all = || format!("types are {}", names.join(", "));
        let name =
            fields.take("type").ok_or_else(|| fields.error_with("it names no type".to_owned(), all()))?;
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let near = nearest(&name, names.iter().copied());
            let near = match &*name {
                // BuildKit's, within an image.
                "inline" => Some(
                    "no cache lies in an image here: type=registry,ref=NAME:cache puts it beside one"
                        .to_owned(),
                ),
                _ => near.first().map(|near| format!("did you mean `{near}`?")),
            };
            let why = format!("there is no cache of type `{}`", name.escape_debug());
            return Err(fields.error_with(why, near.unwrap_or_else(all)));
        };
        kind.example.clone_into(&mut fields.example);
        let place = (kind.read)(fields, variable)?;
        let mode = match fields.take("mode").as_deref() {
            None | Some("max") => Mode::Max,
            Some("min") => Mode::Min,
            Some(other) => {
                let why = format!("mode is `{}`", other.escape_debug());
                return Err(fields.error_with(why, "mode=min or mode=max".to_owned()));
            }
        };
        fields.ignore(&IGNORED);
        Ok(Self {
            kind: place,
            timeout: fields.time("timeout")?,
            scope: fields.take("scope").or(fields.scope.take()),
            mode,
            mounts: fields.switch("mounts", true)?,
            logs: fields.switch("logs", false)?,
        })
    }

    /// The folder, of a place that is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.kind {
            PlaceKind::Local(place) => Some(place.folder()),
            _ => None,
        }
    }

    /// How long its index may take: a request is tried again when it stood still.
    pub fn patience(&self) -> Duration {
        self.timeout.unwrap_or_default().max(PATIENCE)
    }

    /// A client for it; nothing is asked yet.
    pub fn connect(&self, network: &Network) -> Arc<dyn Backend> {
        let network = &Network { stall: self.timeout.or(network.stall), ..network.clone() };
        match &self.kind {
            PlaceKind::Local(place) => Arc::new(place.connect()),
            PlaceKind::Http(place) => Arc::new(place.connect(network)),
            PlaceKind::Gha(place) => Arc::new(place.connect(network)),
            PlaceKind::Turbo(place) => Arc::new(place.connect(network)),
            PlaceKind::Registry(place) => Arc::new(place.connect(network)),
            #[cfg(feature = "object-stores")]
            PlaceKind::Objects(place) => Arc::new(ObjectsBackend::new(place.clone(), network)),
        }
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
        assert!(refused("type=inline").1[0].contains("type=registry,ref=NAME:cache"));
        assert!(refused("url=http://h").0.ends_with("it names no type"));
        assert!(refused("type=http,url=ftp://h").0.contains("only http and https"));
        assert!(refused("type=local").0.ends_with("it needs dest="));
    }

    #[test]
    fn times() {
        let patience = |text: &str| {
            Place::parse(Role::Export, &format!("type=local,dest=/c{text}"), &|_| None).unwrap().patience()
        };
        for (text, seconds) in [("", 5), (",timeout=1", 5), (",timeout=30s", 30), (",timeout=10m", 600)] {
            assert_eq!(patience(text), Duration::from_secs(seconds));
        }
        for wrong in ["0", "11m", "1h", "-1", "18446744073709551615m"] {
            let (error, hints) = refused(&format!("type=local,dest=/c,timeout={wrong}"));
            assert!(error.contains(&format!("`timeout` is `{wrong}`")), "{error}");
            assert_eq!(hints, ["timeout=10s, and at most 600s"]);
        }
    }
}
