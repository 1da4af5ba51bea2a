//! Ports of the host's loopback interface that lead into the network namespace of a step.
//!
//! A process listens on sockets that were made in the host's namespace, enters the step's, and connects there for every
//! connection that it accepts. It is not in the step's pid namespace, so the step cannot reach it.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::LinkNameSpaceType;

use crate::failure::{Doing, Failure, While as _};
use crate::sandbox::passing;
use crate::step::Forward;
use crate::sys::{self, Fork};

/// So many ports after the one that is taken are tried.
const TRIES: u16 = 200;

/// As large as the kernel's socket buffers begin.
const BUFFER: usize = 64 << 10;

/// The process that forwards, seen from the helper.
#[derive(Debug)]
pub(crate) struct Forwarder {
    process: Pid,
    link: UnixStream,
    /// Where it listens, in the order of the request.
    pub(crate) addresses: Vec<SocketAddrV4>,
}

/// How the network namespace gets to the forwarder.
#[derive(Debug)]
pub(crate) struct Link(UnixStream);

impl Link {
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Gives it the network namespace that this process is in.
    pub(crate) fn hand_over(&self) -> Result<(), Failure> {
        let namespace =
            rustix::fs::open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .doing(Doing::Forward)?;
        passing::send_and_wait(&self.0, &[namespace.as_fd()]).doing(Doing::Forward)
    }
}

impl Forwarder {
    /// Listens, and starts the process. This process must still be in the host's network and pid namespaces.
    pub(crate) fn start(forwards: &[Forward]) -> Result<Self, Failure> {
        let listeners = forwards
            .iter()
            .map(|forward| listen(forward.host).doing_to(Doing::Forward, forward.host.to_string()))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(address).collect::<io::Result<_>>().doing(Doing::Forward)?;
        let (link, its_link) = UnixStream::pair().doing(Doing::Talk)?;
        match sys::fork().doing(Doing::Fork)? {
            Fork::Parent(process) => Ok(Self { process, link, addresses }),
            Fork::Child => {
                let guests = forwards.iter().map(|forward| forward.guest);
                let _ = forward(listeners.into_iter().zip(guests).collect(), &its_link);
                sys::exit_now(1)
            }
        }
    }

    pub(crate) fn into_link(self) -> Link {
        Link(self.link)
    }

    /// Ends it, with all connections.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        // Gone already is as good.
        let _ = rustix::process::kill_process(self.process, Signal::KILL);
        rustix::process::waitpid(Some(self.process), WaitOptions::empty()).doing(Doing::Forward).map(drop)
    }
}

fn address(listener: &TcpListener) -> io::Result<SocketAddrV4> {
    match listener.local_addr()? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// Listens on the port wanted, or the next free one.
fn listen(wanted: SocketAddrV4) -> io::Result<TcpListener> {
    let last = wanted.port().saturating_add(TRIES);
    let mut address = wanted;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() < last => {
                address.set_port(address.port() + 1);
            }
            result => return result,
        }
    }
}

fn forward(listeners: Vec<(TcpListener, u16)>, link: &UnixStream) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(Doing::Fork)?;
    rustix::thread::set_name(c"wbuild-forward").doing(Doing::Fork)?;
    let mut kept: Vec<BorrowedFd<'_>> = listeners.iter().map(|(listener, _)| listener.as_fd()).collect();
    kept.push(link.as_fd());
    sys::keep_only(&kept).doing(Doing::Forward)?;
    let namespace = passing::receive(link).doing(Doing::Forward)?.pop();
    let namespace = namespace.ok_or(Errno::CONNRESET).doing(Doing::Forward)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .doing(Doing::Forward)?;
    // From here on this process may have threads: they share the namespace that it is in now.
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|(listener, guest)| std::thread::spawn(move || accept(&listener, guest)))
        .collect();
    passing::ready(link).doing(Doing::Forward)?;
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn accept(listener: &TcpListener, guest: u16) {
    loop {
        match listener.accept() {
            Ok((outside, _)) => drop(std::thread::spawn(move || connect(&outside, guest))),
            // Out of descriptors, most likely: connections that end will give some back.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn connect(outside: &TcpStream, guest: u16) {
    let inside = TcpStream::connect((Ipv4Addr::LOCALHOST, guest))
        .or_else(|_| TcpStream::connect((Ipv6Addr::LOCALHOST, guest)));
    let Ok(inside) = inside else {
        // Nobody listens there: what the caller gets is a reset, as from a closed port.
        return reset(outside);
    };
    for stream in [outside, &inside] {
        // Small messages are for whoever waits for them, not for a timer.
        let _ = stream.set_nodelay(true);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| copy(outside, &inside));
        copy(&inside, outside);
    });
}

/// Copies until the end, and passes that on; after an error neither side has anything more to say.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(length) => {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn reset(stream: &TcpStream) {
    // A linger of no time makes the close a reset.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_leads_to_the_next() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let taken = listen(any).unwrap();
        let port = address(&taken).unwrap().port();
        let next = listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(address(&next).unwrap().port() > port);
    }
}
