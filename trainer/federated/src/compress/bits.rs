//! Codes of a few bits, one after the other, the first one in the lowest bits.

/// Writes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    held: u64,
    bits: u32,
}

impl Writer {
    /// A code of at most 32 bits.
    pub(super) fn write(&mut self, code: u32, bits: u32) {
        self.held |= u64::from(code) << self.bits;
        self.bits += bits;
        while self.bits >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.bits -= 8;
        }
    }

    /// All bytes; the last one is filled with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.bits > 0 {
            self.bytes.push(self.held as u8);
        }
        self.bytes
    }
}

/// Reads.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    held: u64,
    bits: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), held: 0, bits: 0 }
    }

    /// A code of at most 32 bits; after the end, zeros.
    pub(super) fn read(&mut self, bits: u32) -> u32 {
        while self.bits < bits {
            self.held |= u64::from(self.bytes.next().copied().unwrap_or(0)) << self.bits;
            self.bits += 8;
        }
        let code = self.held & ((1 << bits) - 1);
        self.held >>= bits;
        self.bits -= bits;
        code as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back() {
        let codes = [(5, 3), (0, 1), (1023, 10), (77, 7), (u32::MAX, 32), (1, 1)];
        let mut writer = Writer::default();
        for (code, bits) in codes {
            writer.write(code, bits);
        }
        let bytes = writer.finish();
        assert_eq!(bytes.len(), 54_usize.div_ceil(8));
        let mut reader = Reader::new(&bytes);
        for (code, bits) in codes {
            assert_eq!(reader.read(bits), code);
        }
    }
}
