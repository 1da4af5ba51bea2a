//! Programs of other processors, which a kernel runs when an emulator is registered with it (binfmt_misc). What is
//! registered cannot be read everywhere, a container's `/proc` among them, so it is tried with the smallest program there
//! is: one that ends.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;

/// An architecture, as far as a program for it has to say it.
struct Target {
    /// As Go has it, and with it images.
    name: &'static str,
    wide: bool,
    big_endian: bool,
    /// `e_machine` and `e_flags` of ELF.
    machine: u16,
    flags: u32,
    /// `exit(0)`.
    code: &'static [u8],
}

const TARGETS: [Target; 8] = [
    Target {
        name: "amd64",
        wide: true,
        big_endian: false,
        machine: 62,
        flags: 0,
        // mov $60, %eax; xor %edi, %edi; syscall
        code: &[0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05],
    },
    Target {
        name: "386",
        wide: false,
        big_endian: false,
        machine: 3,
        flags: 0,
        // mov $1, %eax; xor %ebx, %ebx; int $0x80
        code: &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80],
    },
    Target {
        name: "arm64",
        wide: true,
        big_endian: false,
        machine: 183,
        flags: 0,
        // mov x8, #93; mov x0, #0; svc #0
        code: &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 0x01, 0, 0, 0xd4],
    },
    Target {
        name: "arm",
        wide: false,
        big_endian: false,
        machine: 40,
        // The fifth version of the EABI.
        flags: 0x0500_0000,
        // mov r7, #1; mov r0, #0; svc #0
        code: &[0x01, 0x70, 0xa0, 0xe3, 0, 0, 0xa0, 0xe3, 0, 0, 0, 0xef],
    },
    Target {
        name: "riscv64",
        wide: true,
        big_endian: false,
        machine: 243,
        flags: 0,
        // li a7, 93; li a0, 0; ecall
        code: &[0x93, 0x08, 0xd0, 0x05, 0x13, 0x05, 0, 0, 0x73, 0, 0, 0],
    },
    Target {
        name: "ppc64le",
        wide: true,
        big_endian: false,
        machine: 21,
        // The second version of the ABI.
        flags: 2,
        // li r0, 1; li r3, 0; sc
        code: &[0x01, 0, 0, 0x38, 0, 0, 0x60, 0x38, 0x02, 0, 0, 0x44],
    },
    Target {
        name: "s390x",
        wide: true,
        big_endian: true,
        machine: 22,
        flags: 0,
        // lghi %r2, 0; svc 1
        code: &[0xa7, 0x29, 0, 0, 0x0a, 0x01],
    },
    Target {
        name: "loong64",
        wide: true,
        big_endian: false,
        machine: 258,
        // The ABI with 64-bit floating point, first version of the object format.
        flags: 0x43,
        // ori $a7, $zero, 93; or $a0, $zero, $zero; syscall 0
        code: &[0x0b, 0x74, 0x81, 0x03, 0x04, 0, 0x15, 0, 0, 0, 0x2b, 0],
    },
];

/// Where the program lies in memory: above what the kernel keeps free, and on a page of any size that there is.
const ADDRESS: u32 = 0x10000;

impl Target {
    /// The whole program: a header, one segment that is the file itself, and the code.
    fn program(&self) -> Vec<u8> {
        let mut bytes = Bytes { target: self, bytes: Vec::new() };
        let (header, segment): (u16, u16) = if self.wide { (64, 56) } else { (52, 32) };
        let start = u32::from(header + segment);
        let size = start + u32::try_from(self.code.len()).unwrap_or_default();
        bytes.bytes.extend(b"\x7fELF");
        bytes.bytes.extend([1 + u8::from(self.wide), 1 + u8::from(self.big_endian), 1]);
        bytes.bytes.extend([0; 9]);
        // An executable.
        bytes.half(2);
        bytes.half(self.machine);
        bytes.word(1);
        bytes.address(ADDRESS + start);
        bytes.address(u32::from(header));
        bytes.address(0);
        bytes.word(self.flags);
        for number in [header, segment, 1, 0, 0, 0] {
            bytes.half(number);
        }
        // To be loaded, readable and executable; where that stands depends on the width.
        let (load, flags) = (1, 5);
        bytes.word(load);
        if self.wide {
            bytes.word(flags);
        }
        for address in [0, ADDRESS, ADDRESS, size, size] {
            bytes.address(address);
        }
        if !self.wide {
            bytes.word(flags);
        }
        bytes.address(ADDRESS);
        bytes.bytes.extend(self.code);
        bytes.bytes
    }
}

/// Numbers in the order and the width of an architecture.
struct Bytes<'a> {
    target: &'a Target,
    bytes: Vec<u8>,
}

impl Bytes<'_> {
    fn half(&mut self, value: u16) {
        self.bytes.extend(if self.target.big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn word(&mut self, value: u32) {
        self.bytes.extend(if self.target.big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn address(&mut self, value: u32) {
        let wide = u64::from(value);
        match (self.target.wide, self.target.big_endian) {
            (false, _) => self.word(value),
            (true, true) => self.bytes.extend(wide.to_be_bytes()),
            (true, false) => self.bytes.extend(wide.to_le_bytes()),
        }
    }
}

/// Whether the kernel runs programs of `architecture`; yes where that cannot be told, and the program itself will.
pub(crate) fn runs(architecture: &str, folder: &Path) -> io::Result<bool> {
    let Some(target) = TARGETS.iter().find(|target| target.name == architecture) else { return Ok(true) };
    let path = folder.join(architecture);
    fs::write(&path, target.program())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(&path);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(match command.status() {
        Ok(_) => true,
        // The file is there, so what is missing is the emulator that was registered.
        Err(error) => !matches!(Errno::from_io_error(&error), Some(Errno::NOEXEC | Errno::NOENT)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_this_machine_ends_well() {
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            _ => return,
        };
        let folder = tempfile::tempdir().unwrap();
        assert!(runs(own, folder.path()).unwrap());
        let status = Command::new(folder.path().join(own)).status().unwrap();
        assert!(status.success(), "{status}");
    }

    #[test]
    fn headers_are_as_long_as_they_say() {
        for target in TARGETS {
            let program = target.program();
            let (header, class) = if target.wide { (120, 2) } else { (84, 1) };
            assert_eq!((program[4], program.len() - target.code.len()), (class, header), "{}", target.name);
        }
    }
}
