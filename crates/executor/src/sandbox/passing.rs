//! Descriptors over sockets between the processes of a sandbox.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// As many as are ever sent at once.
const MOST: usize = 2;

/// Sends descriptors, and waits until the other side says that it is ready.
pub(crate) fn send_and_wait(to: &UnixStream, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(to, &[IoSlice::new(b"L")], &mut control, SendFlags::NOSIGNAL)?;
    let mut ready = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(to, &mut ready))? {
        0 => Err(Errno::CONNRESET),
        _ => Ok(()),
    }
}

/// Receives what [`send_and_wait`] sends; nothing if the other side ended before it did.
pub(crate) fn receive(from: &UnixStream) -> Result<Vec<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(from, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).map(drop)
    })?;
    let rights = |message: RecvAncillaryMessage<'_>| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    Ok(control.drain().flat_map(rights).collect())
}

/// Says that what was received is in use.
pub(crate) fn ready(to: &UnixStream) -> Result<(), Errno> {
    rustix::io::write(to, b"R").map(drop)
}
