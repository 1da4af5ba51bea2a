//! As much of HTTP/1.1 as a client of the remote cache API needs: one request a connection, nothing read without a limit.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::artifacts::{About, Artifacts, Refused};

/// Bytes of a request's head.
const MAX_HEAD: u64 = 32 << 10;

/// Bytes of a body that nobody looks at; a longer one is cut off.
const MAX_IGNORED: u64 = 1 << 20;

/// A client that is silent for so long has gone.
const PATIENCE: Duration = Duration::from_secs(60);

const CHUNK: usize = 128 << 10;

/// A request without its body.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: String,
    /// Without its query: there is one team.
    path: String,
    /// By name in small letters.
    headers: BTreeMap<String, String>,
}

impl Head {
    /// `None` for what is no request.
    fn read(reader: &mut dyn BufRead) -> io::Result<Option<Self>> {
        let mut reader = reader.take(MAX_HEAD);
        let mut line = || -> io::Result<Option<String>> {
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line)?;
            // Without an end of line, the limit or the connection's end cut it.
            let Some(line) = line.strip_suffix(b"\n") else { return Ok(None) };
            Ok(String::from_utf8(line.strip_suffix(b"\r").unwrap_or(line).to_vec()).ok())
        };
        let Some(first) = line()? else { return Ok(None) };
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Ok(None);
        };
        let path = target.split('?').next().unwrap_or_default();
        let mut headers = BTreeMap::new();
        loop {
            let Some(line) = line()? else { return Ok(None) };
            if line.is_empty() {
                return Ok(Some(Self { method: method.to_owned(), path: path.to_owned(), headers }));
            }
            let Some((name, value)) = line.split_once(':') else { return Ok(None) };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// How long the body is; `None` when that is not said.
    fn length(&self) -> Option<u64> {
        match (self.header("content-length"), self.header("transfer-encoding")) {
            (Some(length), None) => length.parse().ok(),
            (None, None) if matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS") => Some(0),
            _ => None,
        }
    }
}

/// Answers one request.
pub(super) fn serve(connection: TcpStream, artifacts: &Artifacts) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(connection);
    let Some(head) = Head::read(&mut reader)? else {
        return say(reader.get_mut(), 400, "");
    };
    let Some(length) = head.length() else { return say(reader.get_mut(), 411, "") };
    if !artifacts.admits(head.header("authorization").unwrap_or_default()) {
        return refuse(&mut reader, length, 401);
    }
    let Some(rest) = head.path.strip_prefix("/v8/artifacts/") else {
        return refuse(&mut reader, length, 404);
    };
    match (head.method.as_str(), rest) {
        ("GET", "status") => say(reader.get_mut(), 200, r#"{"status":"enabled"}"#),
        // Statistics: nobody keeps them.
        ("POST", "events") => refuse(&mut reader, length, 200),
        ("PUT", hash) => take(&mut reader, &head, hash, length, artifacts),
        ("GET" | "HEAD", hash) => match artifacts.get(hash) {
            Some((about, blob)) => {
                let size = blob.size();
                let mut body = (head.method == "GET").then(|| blob.reader());
                give(reader.get_mut(), &about, size, body.as_mut().map(|body| body as &mut dyn Read))
            }
            None => say(reader.get_mut(), 404, ""),
        },
        _ => refuse(&mut reader, length, 405),
    }
}

/// Answers without the body being looked at. As far as it is short, it is taken: who still sends does not read.
fn refuse(reader: &mut BufReader<TcpStream>, length: u64, status: u16) -> io::Result<()> {
    io::copy(&mut reader.take(length.min(MAX_IGNORED)), &mut io::sink())?;
    say(reader.get_mut(), status, if status == 200 { "{}" } else { "" })
}

fn take(
    reader: &mut BufReader<TcpStream>,
    head: &Head,
    hash: &str,
    length: u64,
    artifacts: &Artifacts,
) -> io::Result<()> {
    let duration = head.header("x-artifact-duration").and_then(|text| text.parse().ok());
    let tag = head.header("x-artifact-tag");
    let mut left = length;
    let taken = artifacts.admit(hash, length, tag).and_then(|()| {
        if head.header("expect").is_some() {
            let goes_on = reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            goes_on.map_err(|_| Refused::Failed)?;
        }
        let mut body = reader.by_ref().take(length);
        let put = artifacts.put(hash, length, &mut body, duration, tag);
        left = body.limit();
        put
    });
    match taken {
        Ok(()) => say(reader.get_mut(), 202, r#"{"urls":[]}"#),
        Err(Refused::TooLarge) => refuse(reader, left, 413),
        Err(Refused::Full | Refused::Failed) => refuse(reader, left, 507),
        Err(Refused::Malformed) => refuse(reader, left, 400),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        _ => "Insufficient Storage",
    }
}

fn say(stream: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let reason = reason(status);
    write!(
        stream,
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

/// Sends an artifact. The end of one that turns out to be damaged is not sent.
fn give(stream: &mut TcpStream, about: &About, size: u64, body: Option<&mut dyn Read>) -> io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n"
    );
    if let Some(duration) = about.duration {
        head.push_str(&format!("x-artifact-duration: {duration}\r\n"));
    }
    if let Some(tag) = &about.tag {
        head.push_str(&format!("x-artifact-tag: {tag}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let Some(body) = body else { return stream.flush() };
    let (mut ready, mut next) = (Vec::new(), vec![0; CHUNK]);
    loop {
        let read = match body.read(&mut next) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // What was read before is right as far as this says.
        stream.write_all(&ready)?;
        if read == 0 {
            return stream.flush();
        }
        ready.clear();
        ready.extend_from_slice(&next[..read]);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use proptest::prelude::*;
    use wbuild_store::Store;

    use super::*;

    fn head(bytes: &[u8]) -> Option<Head> {
        Head::read(&mut io::Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn heads() {
        let read = head(b"PUT /v8/artifacts/a1?slug=x HTTP/1.1\r\nContent-Length: 12\r\n\r\nbody").unwrap();
        assert_eq!(
            (read.method.as_str(), read.path.as_str(), read.length()),
            ("PUT", "/v8/artifacts/a1", Some(12))
        );
        assert_eq!(head(b"GET / HTTP/1.1\r\n\r\n").unwrap().length(), Some(0));
        assert_eq!(head(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().length(), None);
        for wrong in ["", "GET /\r\n\r\n", "GET / HTTP/1.1\r\nx: y\r\n", "GET / HTTP/1.1\r\nnothing\r\n\r\n"]
        {
            assert_eq!(head(wrong.as_bytes()), None, "{wrong:?}");
        }
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(MAX_HEAD as usize));
        assert_eq!(head(long.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(bytes: Vec<u8>) {
            let _ = head(&bytes);
        }
    }

    /// The answer to one request.
    fn ask(artifacts: &Artifacts, request: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        serve(listener.accept().unwrap().0, artifacts).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn artifacts_are_kept_by_hash_and_name_for_who_has_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let artifacts = Artifacts::new(store.clone(), "web", "t0ken");
        let request = |method: &str, path: &str, headers: &str, body: &str| {
            let text = format!(
                "{method} /v8/artifacts/{path} HTTP/1.1\r\nAuthorization: Bearer t0ken\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            ask(&artifacts, &text)
        };
        assert!(request("GET", "status", "", "").ends_with(r#"{"status":"enabled"}"#));
        assert!(request("GET", "abc", "", "").starts_with("HTTP/1.1 404 "));
        let kept =
            request("PUT", "abc?slug=web", "x-artifact-duration: 7\r\nx-artifact-tag: t=\r\n", "bytes");
        assert!(kept.starts_with("HTTP/1.1 202 "), "{kept}");
        let got = request("GET", "abc", "", "");
        assert!(got.contains("x-artifact-duration: 7\r\nx-artifact-tag: t=\r\n\r\nbytes"), "{got}");
        let head = request("HEAD", "abc", "", "");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(request("PUT", "abc", "", "other").starts_with("HTTP/1.1 202 "));
        assert!(request("GET", "abc", "", "").ends_with("\r\n\r\nother"));
        assert!(request("POST", "events", "", "[]").starts_with("HTTP/1.1 200 "));
        assert!(request("DELETE", "abc", "", "").starts_with("HTTP/1.1 405 "));
        assert!(request("PUT", "../abc", "", "x").starts_with("HTTP/1.1 400 "));
        // Another project, another machine's token, an artifact that is cut off or too large.
        let other = Artifacts::new(store, "docs", "0ther");
        let with = |token: &str| {
            ask(&other, &format!("GET /v8/artifacts/abc HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"))
        };
        assert!(with("0ther").starts_with("HTTP/1.1 404 ") && with("t0ken").starts_with("HTTP/1.1 401 "));
        let put = |length: u64| {
            format!(
                "PUT /v8/artifacts/cut HTTP/1.1\r\nAuthorization: Bearer t0ken\r\nContent-Length: {length}\r\n\r\nab"
            )
        };
        assert!(ask(&artifacts, &put(3)).starts_with("HTTP/1.1 400 "));
        assert!(
            ask(&artifacts, &put(super::super::artifacts::MAX_ARTIFACT + 1)).starts_with("HTTP/1.1 413 ")
        );
        assert!(request("GET", "cut", "", "").starts_with("HTTP/1.1 404 "));
    }
}
