use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server program on a port of its own on the loopback address, ended with the test.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// Starts a program that listens on `port`, and waits until it does. `None` where it is not installed, or does not
    /// listen after 30 seconds.
    pub fn start(port: u16, command: &mut Command) -> Option<Self> {
        Self::start_within(Duration::from_secs(30), port, command)
    }

    /// The same for one that may take longer.
    pub fn start_within(patience: Duration, port: u16, command: &mut Command) -> Option<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let mut server = Self { child, port };
        let end = Instant::now() + patience;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end || server.child.try_wait().ok()?.is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback address that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
