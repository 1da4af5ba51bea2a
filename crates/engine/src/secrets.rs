//! Secrets: read when they are given, handed to the step that asks, and shown to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// BuildKit's limit for one secret.
pub const MAX_SECRET_BYTES: u64 = 500 * 1024;

/// The secrets of a build, by id.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, Vec<u8>>);

/// Why a secret cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// `--secret` is not of the form that it has.
    #[error("`--secret {}` is not of the form id=ID[,src=FILE|,env=NAME]", text.escape_debug())]
    Malformed {
        /// What was given, without any value.
        text: String,
    },
    /// Its file cannot be read.
    #[error("cannot read the secret `{id}` from `{}`", path.display())]
    File {
        /// Which.
        id: String,
        /// From where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its variable is not set.
    #[error("the secret `{id}` comes from the variable `{name}`, which is not set")]
    Variable {
        /// Which.
        id: String,
        /// The variable.
        name: String,
    },
    /// It is too large.
    #[error("the secret `{id}` has {size} bytes; at most {MAX_SECRET_BYTES} are allowed")]
    TooLarge {
        /// Which.
        id: String,
        /// Bytes.
        size: u64,
    },
}

impl wbuild_report::Hint for SecretError {}

impl Secrets {
    /// Takes one as `--secret` gives it: `id=ID,src=FILE`, `id=ID,env=NAME`, or `id=ID` for the variable, else the file,
    /// of that name (docker buildx).
    ///
    /// # Errors
    /// When it is malformed or cannot be read.
    pub fn add(&mut self, text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), SecretError> {
        let malformed = || SecretError::Malformed { text: text.chars().take(100).collect() };
        let (mut id, mut file, mut env) = (None, None, None);
        for part in text.split(',') {
            match part.split_once('=').ok_or_else(malformed)? {
                ("id", value) => id = Some(value.to_owned()),
                ("src" | "source", value) => file = Some(PathBuf::from(value)),
                ("env", value) => env = Some(value.to_owned()),
                ("type", "file" | "env") => {}
                _ => return Err(malformed()),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(malformed)?;
        if file.is_none() && env.is_none() {
            match variable(&id) {
                Some(_) => env = Some(id.clone()),
                None => file = Some(PathBuf::from(&id)),
            }
        }
        let bytes = match (env, file) {
            (Some(name), _) => {
                variable(&name).ok_or(SecretError::Variable { id: id.clone(), name })?.into_bytes()
            }
            (None, path) => {
                let path = path.unwrap_or_default();
                let failed = |source| SecretError::File { id: id.clone(), path: path.clone(), source };
                let size = std::fs::metadata(&path).map_err(failed)?.len();
                if size > MAX_SECRET_BYTES {
                    return Err(SecretError::TooLarge { id, size });
                }
                std::fs::read(&path).map_err(failed)?
            }
        };
        let size = bytes.len() as u64;
        if size > MAX_SECRET_BYTES {
            return Err(SecretError::TooLarge { id, size });
        }
        self.0.insert(id, bytes);
        Ok(())
    }

    /// The value of one.
    pub fn get(&self, id: &str) -> Option<&[u8]> {
        self.0.get(id).map(Vec::as_slice)
    }

    /// Which were given.
    pub fn ids(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_docker_buildx() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from file").unwrap();
        let variable = |name: &str| (name == "TOKEN").then(|| "from env".to_owned());
        let mut secrets = Secrets::default();
        secrets.add(&format!("id=a,src={}", file.display()), &variable).unwrap();
        secrets.add("id=b,env=TOKEN", &variable).unwrap();
        secrets.add("id=TOKEN", &variable).unwrap();
        assert_eq!(secrets.get("a"), Some(&b"from file"[..]));
        assert_eq!(secrets.get("b"), secrets.get("TOKEN"));
        assert!(!format!("{secrets:?}").contains("from"));
        assert!(matches!(secrets.add("src=x", &variable), Err(SecretError::Malformed { .. })));
        assert!(matches!(secrets.add("id=x,env=NOPE", &variable), Err(SecretError::Variable { .. })));
        assert!(matches!(secrets.add("id=x,src=/nowhere", &variable), Err(SecretError::File { .. })));
    }
}
