//! `registries.toml`, in either of the two forms that people have: buildkitd.toml's `[registry."host"]` and
//! containers-registries.conf(5)'s `[[registry]]`. What it may say is written in `buildspec/registries.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use wbuild_remote::{ClientIdentity, HostTls};
use wbuild_report::{Hint, nearest};

use crate::rules::{Mirror, Rule, Rules, Takes, tls_key};

/// The file in the configuration folder.
const FILE_NAME: &str = "registries.toml";

/// Neither the file nor what it names is larger.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why the rules for registries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file cannot be read.
    #[error("cannot read `{}`, {what}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What it is for.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no TOML.
    #[error("`{}` is no TOML", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why; with the line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It says something that makes no sense.
    #[error("`{}`: {place}: {why}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// `registry."host".mirrors`.
        place: String,
        /// What is wrong.
        why: String,
    },
}

impl Hint for RulesError {}

impl Rules {
    /// Reads the rules of this person: the file, or `registries.toml` in the folder, that `WBUILD_CONFIG` names; else
    /// `wbuild/registries.toml` in the XDG configuration folder. Without a file there are none.
    ///
    /// # Errors
    /// When `WBUILD_CONFIG` names nothing, or a file cannot be read or understood.
    pub fn load(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, RulesError> {
        let path_of = |name: &str| variable(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let absolute = |name: &str| path_of(name).filter(|path| path.is_absolute());
        let (path, named) = match path_of("WBUILD_CONFIG") {
            Some(path) if path.is_dir() => (path.join(FILE_NAME), false),
            Some(path) => (path, true),
            None => {
                let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
                match folder {
                    Some(folder) => (folder.join("wbuild").join(FILE_NAME), false),
                    None => return Ok(Self::default()),
                }
            }
        };
        match read(&path) {
            Ok(bytes) => Self::parse(&String::from_utf8_lossy(&bytes), &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
                Ok(Self { file: Some(path), ..Self::default() })
            }
            Err(source) => {
                let what = "the rules for registries".to_owned();
                Err(RulesError::Read { path, what, source })
            }
        }
    }

    /// Reads rules from a text; `file` is where it comes from, and what relative paths in it are relative to.
    ///
    /// # Errors
    /// When it is malformed, or a file that it names cannot be read.
    pub fn parse(text: &str, file: &Path) -> Result<Self, RulesError> {
        let table: Table = text
            .parse()
            .map_err(|source| RulesError::Toml { path: file.to_owned(), source: Box::new(source) })?;
        let mut reading = Reading { file, tls: BTreeMap::new() };
        let rules = match table.get("registry") {
            None => Vec::new(),
            Some(Value::Table(hosts)) => {
                hosts.iter().map(|(host, value)| reading.buildkit(host, value)).collect::<Result<_, _>>()?
            }
            Some(Value::Array(rules)) => {
                let rules = rules.iter().enumerate();
                rules.map(|(index, value)| reading.containers(index, value)).collect::<Result<_, _>>()?
            }
            Some(_) => {
                return Err(reading.wrong("registry", "neither `[registry.\"HOST\"]` nor `[[registry]]`"));
            }
        };
        Ok(Self { file: Some(file.to_owned()), rules, tls: reading.tls, ..Self::default() })
    }
}

struct Reading<'a> {
    file: &'a Path,
    tls: BTreeMap<String, HostTls>,
}

impl Reading<'_> {
    fn wrong(&self, place: &str, why: impl Into<String>) -> RulesError {
        RulesError::Rule { path: self.file.to_owned(), place: place.to_owned(), why: why.into() }
    }

    /// `[registry."host"]` of buildkitd.toml.
    fn buildkit(&mut self, host: &str, value: &Value) -> Result<Rule, RulesError> {
        let place = format!("registry.\"{host}\"");
        let keys = Keys::of(self, &place, value, &["mirrors", "http", "insecure", "ca", "keypair"])?;
        let (http, insecure) = (keys.flag("http")?, keys.flag("insecure")?);
        let mirrors = keys.texts("mirrors")?;
        let mut roots = Vec::new();
        for path in keys.texts("ca")? {
            roots.extend(self.named_file(&format!("{place}.ca"), &path)?);
            roots.push(b'\n');
        }
        let mut identity = None;
        let pairs = format!("{place}.keypair");
        for pair in keys.tables("keypair")? {
            let keys = Keys::of(self, &pairs, pair, &["key", "cert"])?;
            let (Some(key), Some(cert)) = (keys.text("key")?, keys.text("cert")?) else {
                return Err(self.wrong(&pairs, "it needs `key` and `cert`"));
            };
            let (key, certificates) = (self.named_file(&pairs, &key)?, self.named_file(&pairs, &cert)?);
            identity = Some(ClientIdentity { certificates, key });
        }
        let mirrors = mirrors.into_iter().map(|location| Mirror {
            location: without_scheme(&location),
            insecure: false,
            takes: Takes::All,
        });
        let rule =
            Rule { prefix: host.to_owned(), mirrors: mirrors.collect(), http, insecure, ..Rule::default() };
        self.trust(host, HostTls { roots, identity, unverified: insecure });
        Ok(rule)
    }

    /// `[[registry]]` of registries.conf, version 2.
    fn containers(&mut self, index: usize, value: &Value) -> Result<Rule, RulesError> {
        let place = format!("registry[{index}]");
        let known = ["prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only"];
        let keys = Keys::of(self, &place, value, &known)?;
        let (prefix, location) = (keys.text("prefix")?, keys.text("location")?);
        let by_digest = keys.flag("mirror-by-digest-only")?;
        let Some(named) = prefix.clone().or_else(|| location.clone()).filter(|prefix| !prefix.is_empty())
        else {
            return Err(self.wrong(&place, "it needs `location` or `prefix`"));
        };
        let insecure = keys.flag("insecure")?;
        let blocked = keys.flag("blocked")?;
        let mut mirrors = Vec::new();
        for mirror in keys.tables("mirror")? {
            let place = format!("{place}.mirror");
            let keys = Keys::of(self, &place, mirror, &["location", "insecure", "pull-from-mirror"])?;
            let Some(location) = keys.text("location")? else {
                return Err(self.wrong(&place, "it needs `location`"));
            };
            let takes = match keys.text("pull-from-mirror")?.as_deref() {
                None if by_digest => Takes::Digests,
                None | Some("all") => Takes::All,
                Some("digest-only") => Takes::Digests,
                Some("tag-only") => Takes::Tags,
                Some(_) => {
                    return Err(self.wrong(&place, "`pull-from-mirror` is all, digest-only or tag-only"));
                }
            };
            let insecure = keys.flag("insecure")?;
            self.trust(host_of(&location), HostTls { unverified: insecure, ..HostTls::default() });
            mirrors.push(Mirror { location, insecure, takes });
        }
        let own = location.as_deref().unwrap_or(&named);
        if !own.starts_with('*') {
            self.trust(host_of(own), HostTls { unverified: insecure, ..HostTls::default() });
        }
        Ok(Rule { prefix: named, location, mirrors, http: false, insecure, blocked })
    }

    fn trust(&mut self, host: &str, tls: HostTls) {
        let host = if host == crate::rules::DOCKER_HUB { "registry-1.docker.io" } else { host };
        if tls != HostTls::default() {
            self.tls.insert(tls_key(host), tls);
        }
    }

    fn named_file(&self, place: &str, path: &str) -> Result<Vec<u8>, RulesError> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let path = folder.join(path);
        let what = format!("which `{}` names at {place}", self.file.display());
        read(&path).map_err(|source| RulesError::Read { path, what, source })
    }
}

/// The keys of a table, all of them known.
struct Keys<'a> {
    file: &'a Path,
    place: &'a str,
    table: &'a Table,
}

impl<'a> Keys<'a> {
    fn of(
        reading: &Reading<'a>,
        place: &'a str,
        value: &'a Value,
        known: &[&str],
    ) -> Result<Self, RulesError> {
        let Value::Table(table) = value else { return Err(reading.wrong(place, "it is no table")) };
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            let near = nearest(key, known.iter().copied());
            let why = match near.first() {
                Some(near) => format!("there is no `{key}`; did you mean `{near}`?"),
                None => format!("there is no `{key}`; there are {}", known.join(", ")),
            };
            return Err(reading.wrong(place, why));
        }
        Ok(Self { file: reading.file, place, table })
    }

    fn wrong(&self, key: &str, why: &str) -> RulesError {
        let place = format!("{}.{key}", self.place);
        RulesError::Rule { path: self.file.to_owned(), place, why: why.to_owned() }
    }

    fn flag(&self, key: &str) -> Result<bool, RulesError> {
        match self.table.get(key) {
            None => Ok(false),
            Some(Value::Boolean(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, "it is true or false")),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, RulesError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, "it is a text")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, RulesError> {
        let wrong = || self.wrong(key, "it is a list of texts");
        match self.table.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                values.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    fn tables(&self, key: &str) -> Result<&'a [Value], RulesError> {
        match self.table.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(self.wrong(key, "it is a list of tables")),
        }
    }
}

/// BuildKit takes mirrors with a scheme too; what encryption there is, is said elsewhere.
fn without_scheme(location: &str) -> String {
    let location =
        location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    location.trim_end_matches('/').to_owned()
}

fn host_of(location: &str) -> &str {
    location.split_once('/').map_or(location, |(host, _)| host)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_FILE_BYTES} bytes"),
        )),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules, RulesError> {
        Rules::parse(text, Path::new("/etc/x/registries.toml"))
    }

    #[test]
    fn the_form_of_buildkitd() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "CA").unwrap();
        std::fs::write(folder.path().join("key.pem"), "KEY").unwrap();
        let text = r#"
            debug = true
            [worker.oci]
            max-parallelism = 4
            [registry."docker.io"]
            mirrors = ["mirror.example:5000", "https://core.example/hub/"]
            [registry."mirror.example:5000"]
            http = true
            [registry."core.example"]
            insecure = true
            ca = ["ca.pem"]
            [[registry."core.example".keypair]]
            key = "key.pem"
            cert = "ca.pem"
        "#;
        let rules = Rules::parse(text, &folder.path().join("registries.toml")).unwrap();
        let hub = rules.rules.iter().find(|rule| rule.prefix == "docker.io").unwrap();
        let mirrors: Vec<&str> = hub.mirrors.iter().map(|mirror| mirror.location.as_str()).collect();
        assert_eq!(mirrors, ["mirror.example:5000", "core.example/hub"]);
        assert!(rules.rules.iter().any(|rule| rule.http && rule.prefix == "mirror.example:5000"));
        let tls = &rules.tls["core.example"];
        assert_eq!((tls.unverified, tls.roots.as_slice()), (true, &b"CA\n"[..]));
        assert_eq!(tls.identity.as_ref().unwrap().key, b"KEY");
    }

    #[test]
    fn the_form_of_registries_conf() {
        let rules = parse(
            r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            prefix = "example.org/a"
            location = "in.example/b"
            insecure = true
            [[registry.mirror]]
            location = "m.example/c"
            pull-from-mirror = "digest-only"
            [[registry]]
            location = "bad.example"
            blocked = true
            "#,
        )
        .unwrap();
        assert_eq!(rules.rules[0].location.as_deref(), Some("in.example/b"));
        assert_eq!(rules.rules[0].mirrors[0].takes, Takes::Digests);
        assert!(rules.rules[1].blocked && rules.rules[1].prefix == "bad.example");
        assert!(rules.tls["in.example"].unverified && rules.tls.len() == 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, message) in [
            (
                "[registry.\"a\"]\nmirror = []",
                "registry.\"a\": there is no `mirror`; did you mean `mirrors`?",
            ),
            ("[registry.\"a\"]\nhttp = 1", "registry.\"a\".http: it is true or false"),
            ("[registry.\"a\"]\nmirrors = [1]", "registry.\"a\".mirrors: it is a list of texts"),
            ("[[registry]]\ninsecure = true", "registry[0]: it needs `location` or `prefix`"),
            ("registry = 1", "registry: neither `[registry.\"HOST\"]` nor `[[registry]]`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("`/etc/x/registries.toml`: {message}"));
        }
        assert!(matches!(parse("[["), Err(RulesError::Toml { .. })));
        let missing = parse("[registry.\"a\"]\nca = [\"ca.pem\"]").unwrap_err().to_string();
        assert!(missing.contains("`/etc/x/ca.pem`"), "{missing}");
    }

    #[test]
    fn where_the_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().display().to_string();
        let load = |name: &'static str, value: String| {
            Rules::load(&move |asked| (asked == name).then(|| value.clone()))
        };
        assert!(load("WBUILD_CONFIG", config.clone()).unwrap().rules.is_empty());
        let missing = load("WBUILD_CONFIG", format!("{config}/missing.toml")).unwrap_err();
        assert!(matches!(missing, RulesError::Read { .. }));
        std::fs::create_dir(folder.path().join("wbuild")).unwrap();
        std::fs::write(folder.path().join("wbuild/registries.toml"), "[registry.\"a\"]\nhttp = true")
            .unwrap();
        assert_eq!(load("XDG_CONFIG_HOME", config).unwrap().rules.len(), 1);
        assert!(load("NOTHING", String::new()).unwrap().file().is_none());
    }

    proptest::proptest! {
        #[test]
        fn rules_or_an_error(key in "[a-z.-]{1,12}", value in "(true|1|\"[a-z./*:]{0,20}\"|\\[\\]|\\[\"x\"\\]|\\{\\})", list in "(\\[\\[registry\\]\\]|\\[registry\\.\"a\"\\]|)") {
            let known = ["mirrors", "http", "insecure", "prefix", "location", "mirror", "blocked"];
            for key in known.into_iter().chain([key.as_str()]) {
                if let Ok(rules) = parse(&format!("{list}\n{key} = {value}\n")) {
                    let repository = crate::Repository::of(&"a/b/c".parse().unwrap());
                    let _ = rules.for_pull(&repository, true);
                }
            }
        }
    }
}
