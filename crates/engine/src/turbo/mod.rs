//! The remote cache that `turbo` in a step finds: a server on the loopback interface, off unless it is asked for. It keeps
//! artifacts in the store by Turborepo's hashes, under a name that keeps projects apart.
//!
//! Steps share the host's network, so the server can be seen by everything on the machine: it answers who shows a token that
//! is made for this session and dies with it. Address and token reach the processes of steps in their environment and
//! nothing else: they are in no key, layer, record or log that wbuild writes.

mod artifacts;
mod http;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use wbuild_graph::{Exec, NetworkMode};
use wbuild_store::Store;

use crate::error::EngineError;
use crate::step::io_error;
use crate::worker::Engine;

use artifacts::Artifacts;

/// Connections that are served at once; others are closed.
const CONNECTIONS: usize = 64;

/// The variables from which `turbo` learns where its cache is.
const API: &str = "TURBO_API";
const TOKEN: &str = "TURBO_TOKEN";
const TEAM: &str = "TURBO_TEAM";

/// The running server; gone when it is dropped.
pub(crate) struct TurboServer {
    address: SocketAddr,
    token: String,
    name: String,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Without the token.
impl std::fmt::Debug for TurboServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurboServer").field("address", &self.address).field("name", &self.name).finish()
    }
}

impl TurboServer {
    /// Starts a server for the artifacts that `store` has under `name`.
    fn start(store: Store, name: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let token = random_token()?;
        let closing = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&closing);
        let artifacts = Arc::new(Artifacts::new(store, name, &token));
        let open = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                    open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                let (artifacts, open) = (Arc::clone(&artifacts), Arc::clone(&open));
                std::thread::spawn(move || {
                    // A client that goes away goes without a cache; that is its own affair.
                    let _ = http::serve(connection, &artifacts);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, token, name: name.to_owned(), closing, thread: Some(thread) })
    }

    /// What to add to a step's environment, whose proxy settings are `others`.
    fn variables(&self, others: &[(String, String)]) -> BTreeMap<String, OsString> {
        let mut variables = BTreeMap::from([
            (API.to_owned(), format!("http://{}", self.address).into()),
            (TOKEN.to_owned(), self.token.clone().into()),
            (TEAM.to_owned(), self.name.clone().into()),
        ]);
        // No proxy knows this machine's loopback interface.
        for name in ["NO_PROXY", "no_proxy"] {
            let set = others.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            let value = match set {
                Some(value) => format!("{value},{}", self.address.ip()),
                None if others.iter().any(|(known, _)| known.to_ascii_lowercase().ends_with("_proxy")) => {
                    self.address.ip().to_string()
                }
                None => continue,
            };
            variables.insert(name.to_owned(), value.into());
        }
        variables
    }
}

impl Drop for TurboServer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Engine {
    /// Lets `turbo` in steps find a remote cache: what the store has under `name`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn serve_turbo(&mut self, name: &str) -> Result<(), EngineError> {
        let failed = io_error("open a port for", Path::new("the turbo cache"));
        self.turbo = Some(TurboServer::start(self.store.clone(), name).map_err(failed)?);
        Ok(())
    }

    /// What a step gets to find it; nothing where the step has a cache of its own, or no network.
    pub(crate) fn turbo_variables(&self, exec: &Exec) -> BTreeMap<String, OsString> {
        let Some(server) = &self.turbo else { return BTreeMap::new() };
        if exec.network == NetworkMode::None {
            let message = "steps without a network do not reach the turbo cache";
            self.shared.problems().say("turbo network", message, Vec::new());
            return BTreeMap::new();
        }
        let own = exec.env.iter().map(|variable| &variable.name);
        let own = own.chain(exec.secret_env.iter().map(|secret| &secret.name));
        match own.into_iter().any(|name| name == API || name == TOKEN) {
            true => BTreeMap::new(),
            false => server.variables(&self.trust.variables()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_behind_no_proxy() {
        let folder = tempfile::tempdir().unwrap();
        let server = TurboServer::start(Store::open(folder.path()).unwrap(), "web").unwrap();
        let with = |given: &[(&str, &str)]| {
            let given: Vec<(String, String)> =
                given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            server.variables(&given)
        };
        assert_eq!(with(&[("SSL_CERT_FILE", "x")]).keys().collect::<Vec<_>>(), [API, TEAM, TOKEN]);
        assert_eq!(with(&[("HTTP_PROXY", "http://p")])["NO_PROXY"], "127.0.0.1");
        let both = with(&[("http_proxy", "http://p"), ("no_proxy", "a,b")]);
        assert_eq!((&both["no_proxy"], &both["NO_PROXY"]), (&"a,b,127.0.0.1".into(), &"127.0.0.1".into()));
        assert!(!format!("{server:?}").contains(&server.token));
    }
}
