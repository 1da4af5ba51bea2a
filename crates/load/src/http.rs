//! Just enough HTTP/1.1 for an engine on this machine: one request a connection, bodies streamed.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Answers are read up to here: lists of images, and the messages of a load.
const MAX_ANSWER: u64 = 16 << 20;

/// So much of a head is read at most.
const MAX_HEAD: u64 = 64 << 10;

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// At a socket.
    Socket(PathBuf),
    /// At a host and port, without TLS.
    Host(String),
}

impl Address {
    /// `unix://PATH` or `tcp://HOST:PORT`, as `DOCKER_HOST` has them. Others need docker's own program.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Some(Self::Socket(path.into()));
        }
        let host = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"))?;
        let host = host.trim_end_matches('/');
        (host.contains(':') && !host.contains('/')).then(|| Self::Host(host.to_owned()))
    }

    /// Whether nobody else can listen in.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    fn connect(&self) -> io::Result<Connection> {
        Ok(match self {
            Self::Socket(path) => Connection::Socket(UnixStream::connect(path)?),
            Self::Host(host) => Connection::Host(TcpStream::connect(host)?),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Host(host) => write!(f, "tcp://{host}"),
        }
    }
}

enum Connection {
    Socket(UnixStream),
    Host(TcpStream),
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) => stream.read(buffer),
            Self::Host(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) => stream.write(buffer),
            Self::Host(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(stream) => stream.flush(),
            Self::Host(stream) => stream.flush(),
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Writes a body; what fails on the way to the other side comes back as an [`io::Error`].
pub(crate) type Body<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// Asks and reads the answer. With a body, it is sent in chunks, for its length is not known before.
pub(crate) fn request(
    address: &Address,
    method: &str,
    target: &str,
    body: Option<Body<'_>>,
) -> io::Result<Answer> {
    let mut connection = address.connect()?;
    let kind = match &body {
        Some(_) => "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n",
        None => "Content-Length: 0\r\n",
    };
    write!(
        connection,
        "{method} {target} HTTP/1.1\r\nHost: docker\r\nUser-Agent: wbuild\r\nConnection: close\r\n{kind}\r\n"
    )?;
    let mut unsent = Ok(());
    if let Some(body) = body {
        let mut chunked = BufWriter::with_capacity(256 << 10, Chunked(&mut connection));
        unsent = body(&mut chunked).and_then(|()| chunked.flush());
        drop(chunked.into_parts());
        if unsent.is_ok() {
            unsent = connection.write_all(b"0\r\n\r\n");
        }
    }
    match (answer(&mut BufReader::new(connection)), unsent) {
        // Who says no may stop listening before everything is said.
        (Ok(answer), Err(_)) if answer.status >= 400 => Ok(answer),
        (_, Err(error)) => Err(error),
        (answer, Ok(())) => answer,
    }
}

struct Chunked<'a>(&'a mut Connection);

impl Write for Chunked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        write!(self.0, "{:x}\r\n", bytes.len())?;
        self.0.write_all(bytes)?;
        self.0.write_all(b"\r\n")?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn answer(from: &mut impl BufRead) -> io::Result<Answer> {
    loop {
        let (status, length, chunked) = head(from)?;
        if (100..200).contains(&status) {
            continue;
        }
        let mut body = Vec::new();
        match (length, chunked) {
            (_, true) => chunks(from, &mut body)?,
            (Some(length), false) => {
                if length > MAX_ANSWER {
                    return Err(wrong("the answer is too long"));
                }
                from.take(length).read_to_end(&mut body)?;
            }
            (None, false) => {
                from.take(MAX_ANSWER).read_to_end(&mut body)?;
            }
        }
        return Ok(Answer { status, body });
    }
}

fn head(from: &mut impl BufRead) -> io::Result<(u16, Option<u64>, bool)> {
    let mut from = from.take(MAX_HEAD);
    let mut line = |what| {
        let mut line = String::new();
        match from.read_line(&mut line)? {
            0 => Err(wrong(what)),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = line("there is no answer")?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.ok_or_else(|| wrong("what answers does not speak HTTP"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line("the answer is cut off")?;
        if header.is_empty() {
            return Ok((status, length, chunked));
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            "transfer-encoding" => chunked = value.to_ascii_lowercase().contains("chunked"),
            _ => {}
        }
    }
}

fn chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        from.take(1024).read_line(&mut line)?;
        let size = line.trim().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| wrong("the answer is cut off"))?;
        if body.len() as u64 + size > MAX_ANSWER {
            return Err(wrong("the answer is too long"));
        }
        if size == 0 {
            return Ok(());
        }
        let read = from.take(size).read_to_end(body)?;
        let mut end = [0; 2];
        from.read_exact(&mut end)?;
        if read as u64 != size || end != *b"\r\n" {
            return Err(wrong("the answer is cut off"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let read = |text: &str| answer(&mut text.as_bytes());
        let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, plain.body), (200, b"hi".to_vec()));
        let chunked = read(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 x\r\ntransfer-encoding: Chunked\r\n\r\n2;a\r\nhi\r\n0\r\n\r\n",
        );
        let chunked = chunked.unwrap();
        assert_eq!((chunked.status, chunked.body), (404, b"hi".to_vec()));
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nrest").unwrap().body, b"rest");
        for wrong in [
            "",
            "SSH-2.0\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        let parse = Address::parse;
        assert_eq!(parse("unix:///run/x").unwrap().to_string(), "unix:///run/x");
        assert_eq!(parse("tcp://[::1]:2375/").unwrap().to_string(), "tcp://[::1]:2375");
        for other in ["ssh://a@b", "npipe:////./pipe/x", "https://a:1", "/run/x", "tcp://a:1/prefix", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
