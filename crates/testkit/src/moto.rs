use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// moto's server, which answers as S3 does, in a virtual environment of its own.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    /// Installs it into a folder of `scratch`, unless it is there, and starts it. `None` where one or the other cannot be done.
    pub fn start(scratch: &Path) -> Option<Self> {
        let folder = scratch.join("moto-5.2.1");
        let program = folder.join("bin/moto_server");
        if !folder.join("ready").exists() {
            let run = |program: &Path, args: &[&str]| {
                Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
            };
            let made = run(Path::new("python3"), &["-m", "venv", folder.to_str().unwrap()])
                && run(&folder.join("bin/python"), &["-m", "pip", "install", "-q", "moto[server]==5.2.1"]);
            if !made {
                return None;
            }
            fs::write(folder.join("ready"), "").unwrap();
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut moto = Self { child, port };
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > end || moto.child.try_wait().ok()?.is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        Some(moto)
    }

    /// Its port on the loopback address.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Makes a bucket of this name.
    pub fn make_bucket(&self, name: &str) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.port
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
