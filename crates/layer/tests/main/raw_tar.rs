//! A tar writer without any sense: it writes whatever headers it is told to.

/// One header block that is right unless told otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Block(pub(crate) [u8; 512]);

impl Block {
    pub(crate) fn new(kind: u8, name: &str) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[156] = kind;
        let block = Self(block).octal(100..108, 0o644).octal(108..116, 0).octal(116..124, 0);
        block.octal(124..136, 0).octal(136..148, 1)
    }

    pub(crate) fn octal(self, range: std::ops::Range<usize>, value: u64) -> Self {
        let digits = format!("{value:0width$o}\0", width = range.len() - 1);
        self.bytes(range.start, digits.as_bytes())
    }

    pub(crate) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.octal(124..136, size)
    }

    pub(crate) fn mode(self, mode: u64) -> Self {
        self.octal(100..108, mode)
    }

    pub(crate) fn link(self, target: &str) -> Self {
        self.bytes(157, target.as_bytes())
    }

    pub(crate) fn device(self, major: u64, minor: u64) -> Self {
        self.octal(329..337, major).octal(337..345, minor)
    }

    pub(crate) fn gnu(self) -> Self {
        self.bytes(257, b"ustar  \0")
    }
}

/// Blocks and data in a row.
#[derive(Default, Clone)]
pub(crate) struct RawTar(pub(crate) Vec<u8>);

impl RawTar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn block(mut self, block: Block) -> Self {
        let mut block = block.0;
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    pub(crate) fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, bytes: &str) -> Self {
        self.block(Block::new(b'0', name).size(bytes.len() as u64)).data(bytes.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.block(Block::new(b'5', name).mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.block(Block::new(b'2', name).link(target))
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.block(Block::new(b'1', name).link(target))
    }

    pub(crate) fn pax(self, records: &[u8]) -> Self {
        self.block(Block::new(b'x', "PaxHeader").size(records.len() as u64)).data(records)
    }

    pub(crate) fn gnu_long(self, kind: u8, name: &str) -> Self {
        let bytes = [name.as_bytes(), b"\0"].concat();
        self.block(Block::new(kind, "././@LongLink").gnu().size(bytes.len() as u64)).data(&bytes)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// One PAX record with its right length.
pub(crate) fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    format!("{length} {key}={value}\n").into_bytes()
}
