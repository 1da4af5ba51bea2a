//! The machine's CA bundle and proxies for steps: they reach the processes that need them and nothing else. The bundle
//! is a read-only file in memory, the variables are added after the key is computed, and neither is written anywhere.

use std::path::{Path, PathBuf};

/// Where steps find the bundle.
pub(crate) const BUNDLE_TARGET: &str = "/run/wbuild/ca-certificates.crt";

/// Variables that point at the machine's bundle, tried in this order, before the places of the distributions.
const HOST_VARIABLES: [&str; 4] =
    ["WBUILD_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];

/// Where distributions keep the bundle.
const HOST_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// What the programs that steps run take their bundle from: OpenSSL, curl, git, Node, npm and pnpm, Python, AWS, Deno.
const STEP_VARIABLES: [&str; 10] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_CAFILE",
    "npm_config_cafile",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
];

/// Proxy settings, in both spellings that programs read (BuildKit's predefined arguments).
const PROXY_VARIABLES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Larger bundles are not bundles.
const MAX_BUNDLE_BYTES: u64 = 16 << 20;

/// What the machine trusts and how it reaches the network. `Debug` shows no values: proxies carry passwords.
#[derive(Clone, Default)]
pub(crate) struct Trust {
    bundle: Option<(PathBuf, Vec<u8>)>,
    proxies: Vec<(String, String)>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let proxies: Vec<&str> = self.proxies.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Trust")
            .field("bundle", &self.bundle.as_ref().map(|(path, _)| path))
            .field("proxies", &proxies)
            .finish()
    }
}

/// The bundle that a variable names cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the CA bundle `{}` that {variable} names", path.display())]
pub struct BundleError {
    /// Which variable.
    pub variable: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

impl Trust {
    /// Looks at the environment and the usual places. A variable that names an unreadable file is an error; a machine
    /// without any bundle is none.
    pub(crate) fn of_machine(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, BundleError> {
        let named = HOST_VARIABLES.iter().find_map(|name| Some((*name, variable(name)?)));
        let bundle = match named.filter(|(_, path)| !path.is_empty()) {
            Some((name, path)) => {
                let path = PathBuf::from(path);
                let read = read_bundle(&path);
                match read {
                    Ok(bytes) => Some((path, bytes)),
                    Err(source) => return Err(BundleError { variable: name, path, source }),
                }
            }
            None => HOST_BUNDLES.iter().find_map(|path| {
                let path = Path::new(path);
                Some((path.to_owned(), read_bundle(path).ok()?))
            }),
        };
        let mut proxies = Vec::new();
        for name in PROXY_VARIABLES {
            let lower = name.to_ascii_lowercase();
            let value = variable(&lower).or_else(|| variable(name)).filter(|value| !value.is_empty());
            if let Some(value) = value {
                proxies.push((name.to_owned(), value.clone()));
                proxies.push((lower, value));
            }
        }
        Ok(Self { bundle, proxies })
    }

    /// The bundle's bytes.
    pub(crate) fn bundle(&self) -> Option<&[u8]> {
        self.bundle.as_ref().map(|(_, bytes)| bytes.as_slice())
    }

    /// The file that it was read from.
    pub(crate) fn bundle_path(&self) -> Option<&Path> {
        self.bundle.as_ref().map(|(path, _)| path.as_path())
    }

    /// For people; no values of proxies.
    pub(crate) fn in_words(&self) -> String {
        let bundle = match &self.bundle {
            Some((_, bundle)) => format!("{} bytes reach steps", bundle.len()),
            None => "none found; steps use that of their image".to_owned(),
        };
        let proxies = if self.proxies.is_empty() { "no proxy is set" } else { "proxy settings reach steps" };
        format!("{bundle}; {proxies}")
    }

    /// What to add to a step's environment. What the step sets itself stays as it is.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let mut variables = self.proxies.clone();
        if self.bundle.is_some() {
            variables.extend(STEP_VARIABLES.map(|name| (name.to_owned(), BUNDLE_TARGET.to_owned())));
        }
        variables
    }
}

fn read_bundle(path: &Path) -> std::io::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_BUNDLE_BYTES {
        return Err(std::io::Error::other(format!("it has {size} bytes, more than any CA bundle")));
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_given_in_both_spellings_and_never_shown() {
        let environment = |name: &str| match name {
            "https_proxy" => Some("http://user:secret@proxy:1".to_owned()),
            "NO_PROXY" => Some("localhost".to_owned()),
            _ => None,
        };
        let trust = Trust::of_machine(&environment).unwrap();
        let names: Vec<String> = trust.proxies.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"]);
        assert!(!format!("{trust:?}").contains("secret"));
    }

    #[test]
    fn a_named_bundle_must_be_readable() {
        let environment = |name: &str| (name == "SSL_CERT_FILE").then(|| "/nowhere/ca.crt".to_owned());
        let error = Trust::of_machine(&environment).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the CA bundle `/nowhere/ca.crt` that SSL_CERT_FILE names");
    }
}
