use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::server::{Server, free_port};

/// moto's server, which answers as S3 does, in a virtual environment of its own.
#[derive(Debug)]
pub struct Moto(Server);

impl Moto {
    /// Installs it into a folder of `scratch`, unless it is there, and starts it. `None` where one or the other cannot be done.
    pub fn start(scratch: &Path) -> Option<Self> {
        let folder = scratch.join("moto-5.2.1");
        let program = folder.join("bin/moto_server");
        if !folder.join("ready").exists() {
            let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
            let mut pip = Command::new(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "-q", "moto[server]==5.2.1"]);
            if !run(Command::new("python3").args(["-m", "venv"]).arg(&folder)) || !run(&mut pip) {
                return None;
            }
            fs::write(folder.join("ready"), "").ok()?;
        }
        let port = free_port().ok()?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        Server::start_within(Duration::from_secs(60), port, &mut command).map(Self)
    }

    /// Its port on the loopback address.
    pub const fn port(&self) -> u16 {
        self.0.port
    }

    /// Makes a bucket of this name.
    ///
    /// # Errors
    /// When it cannot be asked, or refuses.
    pub fn make_bucket(&self, name: &str) -> io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.0.port))?;
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.0.port
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other(answer)) }
    }
}
