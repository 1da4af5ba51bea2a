use std::fmt;

use rustix::thread as kernel;
use serde::{Deserialize, Serialize};

/// A set of Linux capabilities, in the kernel's numbering.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability: for tasks, which need none.
    pub const NONE: Self = Self(0);

    /// The fourteen that Docker and BuildKit give: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
    /// setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
    pub const DOCKER: Self = Self(0xa804_25fb);

    /// [`CapabilitySet::DOCKER`] without mknod, net_raw and audit_write, as buildah and podman have it.
    pub const BUILDAH: Self = Self(0x8004_05fb);

    /// All that the kernel knows; a process gets those of them that its parent has.
    pub const ALL: Self = Self((1 << 41) - 1);

    /// Makes raw sockets: as real root in the host's network, reads and forges the host's traffic.
    pub const NET_RAW: Self = Self(1 << 13);

    /// The capabilities whose bits are set.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// One bit for each capability.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// These, less those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn kernel(self) -> kernel::CapabilitySet {
        kernel::CapabilitySet::from_bits_retain(self.0)
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CapabilitySet({:016x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::CapabilitySet as K;

    #[test]
    fn the_sets_are_what_their_docs_say() {
        let buildah = K::CHOWN
            | K::DAC_OVERRIDE
            | K::FOWNER
            | K::FSETID
            | K::KILL
            | K::SETGID
            | K::SETUID
            | K::SETPCAP
            | K::NET_BIND_SERVICE
            | K::SYS_CHROOT
            | K::SETFCAP;
        assert_eq!(CapabilitySet::BUILDAH.kernel(), buildah);
        assert_eq!(CapabilitySet::DOCKER.kernel(), buildah | K::MKNOD | K::NET_RAW | K::AUDIT_WRITE);
        assert!(!CapabilitySet::DOCKER.without(CapabilitySet::NET_RAW).kernel().contains(K::NET_RAW));
    }
}
