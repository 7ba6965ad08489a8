//! The header of a numpy array, and numbers of its types.
//!
//! NEP 1, *A Simple File Format for NumPy Arrays*: `\x93NUMPY`, a version, the header's length, the header as a Python
//! dictionary of `descr`, `fortran_order` and `shape`, then the values.

use crate::error::DatasetError;
use crate::zip::Member;

/// Longer than the header of any array that is read here.
const HEADER_BYTES: usize = 64 << 10;
/// numpy's own limit on dimensions.
const MOST_DIMENSIONS: usize = 64;

/// Numbers that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
}

/// What an array's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Bytes of one value.
    pub(crate) bytes: usize,
    big_endian: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// Reads the header; then the member holds as many bytes as the shape asks for.
    pub(crate) fn read(member: &mut Member<'_>) -> Result<Self, DatasetError> {
        let mut magic = [0; 8];
        member.fill(&mut magic, "an array's header")?;
        let length_bytes = match magic {
            [0x93, b'N', b'U', b'M', b'P', b'Y', 1, 0] => 2,
            [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, 0] => 4,
            _ => return Err(member.wrong(format!("{magic:02x?}"), "93 NUMPY and version 1, 2 or 3")),
        };
        let mut length = [0; 4];
        if let Some(length) = length.get_mut(..length_bytes) {
            member.fill(length, "the header's length")?;
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > HEADER_BYTES || length as u64 > member.remaining() {
            return Err(member.wrong(format!("a header of {length} bytes"), format!("at most {HEADER_BYTES}")));
        }
        let mut text = vec![0; length];
        member.fill(&mut text, "the header")?;
        let text = String::from_utf8_lossy(&text);
        let header = Parser(text.trim()).header().map_err(|right| member.wrong(text.trim(), right))?;
        let count = header.shape.iter().try_fold(header.bytes as u64, |all, &size| all.checked_mul(size as u64));
        if count != Some(member.remaining()) {
            let found = format!("{} bytes after the header", member.remaining());
            return Err(member.wrong(found, format!("as many as {:?} values of {} bytes", header.shape, header.bytes)));
        }
        Ok(header)
    }

    /// Values of `raw`, whose length is a multiple of `self.bytes`. 8-byte integers beyond 2^53 lose their last digits.
    pub(crate) fn values<'a>(&'a self, raw: &'a [u8]) -> impl Iterator<Item = f64> + 'a {
        raw.chunks_exact(self.bytes.max(1)).map(|value| {
            // The lowest byte first, zeros above.
            let mut bytes = [0; 8];
            for (index, slot) in bytes.iter_mut().take(self.bytes).enumerate() {
                let from = if self.big_endian { self.bytes - 1 - index } else { index };
                *slot = value.get(from).copied().unwrap_or_default();
            }
            let unsigned = u64::from_le_bytes(bytes);
            let unused = 64 - 8 * self.bytes as u32;
            match self.kind {
                Kind::Bool | Kind::Unsigned => unsigned as f64,
                // Shifted up and back: the sign's bit fills what was empty.
                Kind::Signed => ((unsigned << unused) as i64 >> unused) as f64,
                Kind::Float if self.bytes == 4 => f64::from(f32::from_bits(unsigned as u32)),
                Kind::Float => f64::from_bits(unsigned),
            }
        })
    }
}

/// What is left to read of a dictionary such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
struct Parser<'a>(&'a str);

const RIGHT: &str = "a dictionary of 'descr', 'fortran_order' and 'shape', as numpy writes it";

impl<'a> Parser<'a> {
    /// The error says what is right.
    fn header(mut self) -> Result<Header, String> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        self.token("{")?;
        while self.token("}").is_err() {
            let key = self.string()?;
            self.token(":")?;
            match key {
                "descr" => descr = Some(self.descr()?),
                "fortran_order" if self.token("True").is_ok() => order = Some(true),
                "fortran_order" => {
                    self.token("False")?;
                    order = Some(false);
                }
                "shape" => shape = Some(self.tuple()?),
                _ => return Err(RIGHT.into()),
            }
            if self.token(",").is_err() {
                self.token("}")?;
                break;
            }
        }
        let (Some((kind, bytes, big_endian)), Some(order), Some(shape), true) =
            (descr, order, shape, self.0.is_empty())
        else {
            return Err(RIGHT.into());
        };
        if order && shape.iter().filter(|&&size| size > 1).count() > 1 {
            return Err("'fortran_order': False; save numpy.ascontiguousarray(array)".into());
        }
        Ok(Header { kind, bytes, big_endian, shape })
    }

    fn token(&mut self, token: &str) -> Result<(), String> {
        self.0 = self.0.strip_prefix(token).ok_or(RIGHT)?.trim_start();
        Ok(())
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = self.0.chars().next().filter(|first| "'\"".contains(*first)).ok_or(RIGHT)?;
        let (text, rest) = self.0.get(1..).and_then(|rest| rest.split_once(quote)).ok_or(RIGHT)?;
        self.0 = rest.trim_start();
        Ok(text)
    }

    fn descr(&mut self) -> Result<(Kind, usize, bool), String> {
        let text = self.string().map_err(|_| "an array of plain numbers, without fields".to_owned())?;
        let (kind, big_endian) = match text.split_at_checked(1) {
            Some(("<" | "|" | "=", kind)) => (kind, false),
            Some((">", kind)) => (kind, true),
            _ => (text, false),
        };
        let (kind, bytes) = match kind {
            "b1" => (Kind::Bool, 1),
            "u1" => (Kind::Unsigned, 1),
            "u2" => (Kind::Unsigned, 2),
            "u4" => (Kind::Unsigned, 4),
            "u8" => (Kind::Unsigned, 8),
            "i1" => (Kind::Signed, 1),
            "i2" => (Kind::Signed, 2),
            "i4" => (Kind::Signed, 4),
            "i8" => (Kind::Signed, 8),
            "f4" => (Kind::Float, 4),
            "f8" => (Kind::Float, 8),
            _ => {
                return Err(format!(
                    "'descr' of b1, u1 to u8, i1 to i8, f4 or f8, not {text:?}: objects and half floats are not read; \
                     save array.astype(\"float32\")"
                ));
            }
        };
        Ok((kind, bytes, big_endian))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let mut sizes = Vec::new();
        self.token("(")?;
        while self.token(")").is_err() {
            let digits = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
            let (number, rest) = self.0.split_at(digits);
            sizes.push(number.parse().map_err(|_| RIGHT)?);
            self.0 = rest.trim_start();
            if sizes.len() > MOST_DIMENSIONS {
                return Err(format!("at most {MOST_DIMENSIONS} dimensions"));
            }
            if self.token(",").is_err() {
                self.token(")")?;
                break;
            }
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Header, String> {
        Parser(text).header()
    }

    #[test]
    fn headers_are_read_as_numpy_writes_them() {
        let header = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }").unwrap();
        assert_eq!(header, Header { kind: Kind::Float, bytes: 4, big_endian: false, shape: vec![3, 4] });
        let header = parse("{\"shape\":(5,),\"descr\":\">i8\",\"fortran_order\":True}").unwrap();
        assert_eq!(header, Header { kind: Kind::Signed, bytes: 8, big_endian: true, shape: vec![5] });
        assert_eq!(parse("{'descr': '|u1', 'fortran_order': False, 'shape': (), }").unwrap().shape, [0; 0]);
    }

    #[test]
    fn headers_that_cannot_be_read_say_what_is_right() {
        let refused = |text: &str, says: &str| {
            let right = parse(text).unwrap_err();
            assert!(right.contains(says), "{text}: {right}");
        };
        refused("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", "objects and half floats");
        refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", "without fields");
        refused("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }", "ascontiguousarray");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (3, -2), }", "a dictionary of");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "a dictionary of");
        refused("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), } x", "a dictionary of");
        refused("{'descr': '<f4', 'shape': (3,), }", "a dictionary of");
        refused("", "a dictionary of");
        refused(&format!("{{'shape': ({})", "1,".repeat(65)), "at most 64");
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        let of = |kind, bytes, big_endian, raw: &[u8]| {
            Header { kind, bytes, big_endian, shape: vec![] }.values(raw).collect::<Vec<f64>>()
        };
        assert_eq!(of(Kind::Unsigned, 1, false, &[0, 200]), [0.0, 200.0]);
        assert_eq!(of(Kind::Signed, 1, false, &[0xff, 5]), [-1.0, 5.0]);
        assert_eq!(of(Kind::Signed, 2, true, &(-300_i16).to_be_bytes()), [-300.0]);
        assert_eq!(of(Kind::Signed, 4, false, &(-70_000_i32).to_le_bytes()), [-70_000.0]);
        assert_eq!(of(Kind::Signed, 8, false, &(-5_i64).to_le_bytes()), [-5.0]);
        assert_eq!(of(Kind::Unsigned, 8, false, &7_u64.to_le_bytes()), [7.0]);
        assert_eq!(of(Kind::Float, 4, true, &0.25_f32.to_be_bytes()), [0.25]);
        assert_eq!(of(Kind::Float, 8, false, &(-0.1_f64).to_le_bytes()), [-0.1]);
        assert_eq!(of(Kind::Bool, 1, false, &[1, 0]), [1.0, 0.0]);
    }
}
