use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 22;

/// The pause after each byte of what [drips](Body::Dripped): some headers take longer then than any client of a test waits.
const DRIP: Duration = Duration::from_millis(50);

/// A connection.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, …
    pub method: String,
    /// Path and query, as sent.
    pub path: String,
    /// By name in small letters.
    pub headers: BTreeMap<String, String>,
    /// What was sent with it.
    pub body: Vec<u8>,
}

impl Seen {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first byte of `Range: bytes=N-`.
    pub fn range(&self) -> Option<usize> {
        self.header("range").strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    /// First and last byte of `Range: bytes=N-M`.
    pub fn part(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range").strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// How a body is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Whole.
    Whole(Vec<u8>),
    /// Announced whole; after so many bytes the connection is closed.
    Cut(Vec<u8>, usize),
    /// Announced whole; after so many bytes nothing more comes, until the client closes the connection.
    Held(Vec<u8>, usize),
    /// Sent in chunks, without a length.
    Chunked(Vec<u8>),
    /// Whole, with this for its length.
    Misstated(Vec<u8>, usize),
    /// Headers and body come a byte at a time, with a pause after each, until the client has enough of it.
    Dripped(Vec<u8>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Reply {
    /// With a status and nothing else.
    pub const fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    /// 200 with these bytes.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(Body::Whole(body.into()))
    }

    /// The rest of `body` from `first` on, as an answer to a range.
    pub fn part(body: &[u8], first: usize) -> Self {
        let range = format!("bytes {first}-{}/{}", body.len() - 1, body.len());
        Self::status(206).header("Content-Range", range).body(Body::Whole(body[first..].to_vec()))
    }

    /// The bytes of `body` from `first` to `last`, as an answer to a range that begins in it.
    pub fn between(body: &[u8], first: usize, last: usize) -> Self {
        let last = last.min(body.len() - 1);
        let range = format!("bytes {first}-{last}/{}", body.len());
        Self::status(206).header("Content-Range", range).body(Body::Whole(body[first..=last].to_vec()))
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// With another body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// The body.
    pub(crate) fn whole(&self) -> Body {
        self.body.clone()
    }

    /// With another status.
    pub(crate) const fn saying(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With another value of a header that it has.
    pub(crate) fn replacing(mut self, name: &str, value: &str) -> Self {
        for (known, old) in &mut self.headers {
            if known == name {
                value.clone_into(old);
            }
        }
        self
    }

    /// With the path of its `Location` at another server.
    pub(crate) fn placed_at(mut self, server: &str) -> Self {
        for (_, value) in self.headers.iter_mut().filter(|(name, _)| name == "Location") {
            if value.starts_with('/') {
                *value = format!("{server}{value}");
            }
        }
        self
    }

    /// Its body.
    pub const fn content(&self) -> &Body {
        &self.body
    }

    fn send(&self, seen: &Seen, stream: &mut dyn Stream) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let (bytes, end) = match &self.body {
            Body::Whole(bytes) | Body::Chunked(bytes) | Body::Misstated(bytes, _) | Body::Dripped(bytes) => {
                (bytes, bytes.len())
            }
            Body::Cut(bytes, end) | Body::Held(bytes, end) => (bytes, *end),
        };
        let chunked = matches!(self.body, Body::Chunked(_));
        match (self.status, chunked) {
            (204 | 304, _) => {}
            (_, true) => head.push_str("Transfer-Encoding: chunked\r\n"),
            (_, false) => {
                let length = if let Body::Misstated(_, length) = self.body { length } else { bytes.len() };
                head.push_str(&format!("Content-Length: {length}\r\n"));
            }
        }
        head.push_str("\r\n");
        if matches!(self.body, Body::Dripped(_)) {
            for byte in head.as_bytes().iter().chain(bytes) {
                stream.write_all(&[*byte])?;
                stream.flush()?;
                thread::park_timeout(DRIP);
            }
            return Ok(());
        }
        stream.write_all(head.as_bytes())?;
        if seen.method == "HEAD" || matches!(self.status, 204 | 304) {
            return stream.flush();
        }
        if chunked {
            for chunk in bytes.chunks(1000) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
            return stream.flush();
        }
        stream.write_all(&bytes[..end])?;
        stream.flush()?;
        if matches!(self.body, Body::Held(..)) {
            let _ = stream.read(&mut [0]);
        }
        Ok(())
    }
}

/// How much of what a client sends is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// All of it; then it is answered.
    Whole,
    /// So many bytes at most; the handler sees them, and the connection is closed without an answer.
    Cut(usize),
    /// So many bytes at most; the handler sees them, and nothing more happens until the client closes the connection.
    Held(usize),
}

type Admit = dyn Fn(&Seen) -> Intake + Send + Sync;
type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;
type Accept = dyn Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync;

/// A server on a port of its own; gone when it is dropped.
pub struct HttpServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    closing: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpServer").field(&self.address).finish()
    }
}

impl HttpServer {
    /// Starts a server that answers as `handler` says.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_with(|stream| Ok(Box::new(stream)), handler)
    }

    /// The same, with something around each connection: TLS.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start_with(
        accept: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_admitting(accept, |_| Intake::Whole, handler)
    }

    /// The same, and `admit` says, knowing the head of a request, how much of its body is taken.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start_admitting(
        accept: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
        admit: impl Fn(&Seen) -> Intake + Send + Sync + 'static,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (seen, closing) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let (accept, admit): (Arc<Accept>, Arc<Admit>) = (Arc::new(accept), Arc::new(admit));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, ending) = (Arc::clone(&seen), Arc::clone(&closing));
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let (accept, handler, log) = (Arc::clone(&accept), Arc::clone(&handler), Arc::clone(&log));
                let (admit, ending) = (Arc::clone(&admit), Arc::clone(&ending));
                // Clients go away in the middle; that is their business.
                thread::spawn(move || {
                    accept(connection).and_then(|stream| serve(stream, &*admit, &*handler, &log, &ending))
                });
            }
        });
        Ok(Self { address, seen, closing, thread: Some(thread) })
    }

    /// A URL on it: `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: Box<dyn Stream>,
    admit: &Admit,
    handler: &Handler,
    log: &Mutex<Vec<Seen>>,
    ending: &AtomicBool,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    if reader.fill_buf()?.first() == Some(&TLS_HANDSHAKE) {
        // As Go's servers answer.
        let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n";
        return reader.get_mut().write_all(text);
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut seen = Seen { method, path, headers, body: Vec::new() };
    let intake = admit(&seen);
    seen.body = match intake {
        Intake::Whole => vec![0; length],
        Intake::Cut(most) | Intake::Held(most) => vec![0; length.min(most)],
    };
    reader.read_exact(&mut seen.body)?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
    let reply = handler(&seen);
    match intake {
        Intake::Whole => {}
        Intake::Cut(_) => return Ok(()),
        Intake::Held(_) => {
            // Without taking anything that is on its way.
            while !ending.load(Ordering::SeqCst) {
                thread::park_timeout(Duration::from_millis(10));
            }
            return Ok(());
        }
    }
    reply.send(&seen, &mut **reader.get_mut())
}
