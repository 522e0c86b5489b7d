//! Netlink attributes: the type-length-value encoding that every nf_tables and conntrack message uses.
//!
//! Pure. Numbers in nf_tables attributes are big-endian, lengths and types are in host order
//! (linux/netlink.h, linux/netfilter/nf_tables.h).

/// Set in an attribute's type when its value is a list of attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// Appends attributes to a message.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl<'a> Attributes<'a> {
    /// Appends to `buffer`, whose length must be a multiple of four.
    pub fn new(buffer: &'a mut Vec<u8>) -> Self {
        assert!(buffer.len().is_multiple_of(4), "attributes start on a four-byte boundary");
        Self(buffer)
    }

    /// An attribute of raw bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let at = self.open(kind);
        self.0.extend_from_slice(value);
        self.close(at);
        self
    }

    /// A zero-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let at = self.open(kind);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.close(at);
        self
    }

    /// A 32-bit number, big-endian.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A list of attributes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) -> &mut Self {
        let at = self.open(kind | NESTED);
        fill(&mut Attributes(self.0));
        self.close(at);
        self
    }

    /// Attributes that are already encoded.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.0.extend_from_slice(encoded);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn open(&mut self, kind: u16) -> usize {
        let at = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    fn close(&mut self, at: usize) {
        let length = u16::try_from(self.0.len() - at).expect("callers keep an attribute below 64 KiB");
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Walks the attributes in `bytes`: the type without flags, and the value. Stops at the first
/// attribute that does not fit.
pub fn walk(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        let value = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & TYPE_MASK, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_with_padding_and_nesting() {
        let mut buffer = Vec::new();
        Attributes::new(&mut buffer).text(1, "proa").nested(2, |inner| {
            inner.number(3, 0x0102).bytes(4, &[9]);
        });
        let expected: Vec<u8> = [
            &9u16.to_ne_bytes()[..],
            &1u16.to_ne_bytes(),
            b"proa\0\0\0\0",
            &20u16.to_ne_bytes(),
            &0x8002u16.to_ne_bytes(),
            &8u16.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            &[0, 0, 1, 2],
            &5u16.to_ne_bytes(),
            &4u16.to_ne_bytes(),
            &[9, 0, 0, 0],
        ]
        .concat();
        assert_eq!(buffer, expected);

        let read: Vec<_> = walk(&buffer).collect();
        assert_eq!(read[0], (1, &b"proa\0"[..]));
        let inner: Vec<_> = walk(read[1].1).collect();
        assert_eq!(inner, [(3, &[0, 0, 1, 2][..]), (4, &[9][..])]);
    }

    #[test]
    fn walking_ends_at_a_cut_attribute() {
        assert_eq!(walk(&[]).count(), 0);
        assert_eq!(walk(&[8, 0, 1]).count(), 0);
        assert_eq!(walk(&[8, 0, 1, 0, 1]).count(), 0);
        assert_eq!(walk(&[0, 0, 1, 0]).count(), 0);
    }
}
