//! Debian's docker-registry behind a port that counts what goes in: what a push really sends.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use wbuild_testkit::{Server, free_port};

use crate::problem::{Skipped, doing};
use crate::run::has_program;

/// A registry that ends with this value.
#[derive(Debug)]
pub(crate) struct Registry {
    _server: Server,
    meter: Meter,
}

impl Registry {
    /// Starts one with its data in `folder`, which must not exist.
    pub(crate) fn start(folder: &Path) -> Result<Self, Skipped> {
        if !has_program("docker-registry") {
            return Err(Skipped::Missing("there is no `docker-registry`".to_owned()));
        }
        fs::create_dir_all(folder).map_err(doing("create", folder))?;
        let port = free_port().map_err(doing("find a free port for", folder))?;
        let config = folder.join("config.yml");
        let data = folder.join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            data.display()
        );
        File::create(&config)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(doing("write", &config))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        let Some(server) = Server::start(port, &mut command) else {
            return Err(Skipped::Missing("docker-registry does not start".to_owned()));
        };
        let meter = Meter::before(port).map_err(doing("listen for", folder))?;
        Ok(Self { _server: server, meter })
    }

    /// HOST:PORT, for names of images.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.meter.port)
    }

    /// Bytes sent to it since this was last asked: requests with their headers and bodies.
    pub(crate) fn received(&self) -> u64 {
        self.meter.sent.swap(0, Ordering::Relaxed)
    }
}

/// Passes connections on to another port, and counts the bytes of those who connect.
#[derive(Debug)]
struct Meter {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Meter {
    /// Lives as long as the program does.
    fn before(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                // A connection that cannot be passed on is closed, which the client sees and reports.
                let _ = pass_on(client, server, counted);
            }
        });
        Ok(Self { port, sent })
    }
}

fn pass_on(client: TcpStream, server: u16, counted: Arc<AtomicU64>) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (answers, to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || copy(client, server, Some(&counted)));
    thread::spawn(move || copy(answers, to_client, None));
    Ok(())
}

/// Until one side ends, or breaks off; the other then hears of it.
fn copy(mut from: TcpStream, mut to: TcpStream, counted: Option<&AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(counted) = counted {
            counted.fetch_add(length as u64, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
