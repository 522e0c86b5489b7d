//! One nf_tables transaction: messages that the kernel takes all together or not at all.
//!
//! Pure; `socket::transact` sends it.

use std::sync::Arc;

use super::attr::Attributes;
use super::expr::{Expr, Verdict};

/// A base chain's place in the packet's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// On the way through this host.
    Forward = 2,
    /// Made by this host.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// The types of keys and data. The kernel knows lengths only; the types let `nft list` print them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// An IPv4 address.
    Address = 7,
    /// A protocol above IP.
    Protocol = 12,
    /// A port.
    Port = 13,
    /// Any 32-bit number in host order.
    Number = 19,
}

impl Type {
    /// Each part of a key or value takes whole 32-bit registers; every type here fits in one.
    const BYTES: u32 = 4;

    /// The number of a concatenation: six bits for each part.
    fn concatenated(parts: &[Type]) -> u32 {
        parts.iter().fold(0, |number, part| (number << 6) | *part as u32)
    }

    fn length(parts: &[Type]) -> u32 {
        parts.iter().map(|_| Self::BYTES).sum()
    }
}

/// What a named set maps its keys to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetSpec<'a> {
    /// Nothing: a plain set.
    Set,
    /// Values.
    Map(&'a [Type]),
    /// Verdicts.
    VerdictMap,
    /// Values that rules put in themselves, for a time, and no more of them than this.
    DynamicMap(&'a [Type], u32),
}

/// What one element maps its key to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// Nothing.
    None,
    /// A value of a map.
    Value(Vec<u8>),
    /// A verdict of a verdict map.
    Verdict(Verdict),
}

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// The IPv4 family of tables.
const FAMILY: u8 = 2;
/// An attribute cannot be longer than 64 KiB, so long lists of elements go in several messages.
const ELEMENTS_PER_MESSAGE: usize = 400;
const SET_FLAG_MAP: u32 = 8;
const SET_FLAG_TIMEOUT: u32 = 16;
const SET_FLAG_DYNAMIC: u32 = 32;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
const DATA_LENGTH_VERDICT: u32 = 16;

/// Messages about one table, to be sent as one transaction.
pub struct Batch {
    table: Arc<str>,
    buffer: Vec<u8>,
    /// What each message is about, for errors; the kernel answers with the message's number.
    about: Vec<String>,
    sets: u32,
}

impl Batch {
    /// An empty transaction on `table`.
    pub fn new(table: &str) -> Self {
        let mut batch = Self { table: table.into(), buffer: Vec::new(), about: Vec::new(), sets: 0 };
        batch.control(BATCH_BEGIN);
        batch
    }

    /// Makes the table; not an error if it exists.
    pub fn add_table(&mut self) {
        let table = Arc::clone(&self.table);
        self.message(NEW_TABLE, CREATE, "table".into(), |a| {
            a.text(1, &table);
        });
    }

    /// Removes the table and all it holds.
    pub fn delete_table(&mut self) {
        let table = Arc::clone(&self.table);
        self.message(DELETE_TABLE, 0, "table".into(), |a| {
            a.text(1, &table);
        });
    }

    /// Makes a chain that other chains send packets to.
    pub fn add_chain(&mut self, chain: &str) {
        let table = Arc::clone(&self.table);
        self.message(NEW_CHAIN, CREATE, format!("chain {chain}"), |a| {
            a.text(1, &table).text(3, chain);
        });
    }

    /// Makes a chain that sees all packets at `hook`. `kind` is `filter` or `nat`.
    pub fn add_base_chain(&mut self, chain: &str, kind: &str, hook: Hook, priority: i32) {
        let table = Arc::clone(&self.table);
        self.message(NEW_CHAIN, CREATE, format!("chain {chain}"), |a| {
            a.text(1, &table).text(3, chain).nested(4, |h| {
                h.number(1, hook as u32).number(2, priority.cast_unsigned());
            });
            a.text(7, kind);
        });
    }

    /// Removes a chain and its rules. Nothing may refer to it any more.
    pub fn delete_chain(&mut self, chain: &str) {
        let table = Arc::clone(&self.table);
        self.message(DELETE_CHAIN, 0, format!("chain {chain}"), |a| {
            a.text(1, &table).text(3, chain);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &[Expr]) {
        let table = Arc::clone(&self.table);
        self.message(NEW_RULE, CREATE | APPEND, format!("rule of chain {chain}"), |a| {
            a.text(1, &table).text(2, chain).nested(4, |list| rule.iter().for_each(|e| e.encode(list)));
        });
    }

    /// Makes a named set or map.
    pub fn add_set(&mut self, set: &str, key: &[Type], spec: SetSpec) {
        self.sets += 1;
        let (table, id) = (Arc::clone(&self.table), self.sets);
        self.message(NEW_SET, CREATE, format!("set {set}"), |a| {
            let flags = match spec {
                SetSpec::Set => 0,
                SetSpec::Map(_) | SetSpec::VerdictMap => SET_FLAG_MAP,
                SetSpec::DynamicMap(..) => SET_FLAG_MAP | SET_FLAG_TIMEOUT | SET_FLAG_DYNAMIC,
            };
            a.text(1, &table).text(2, set).number(3, flags);
            a.number(4, Type::concatenated(key)).number(5, Type::length(key));
            match spec {
                SetSpec::Set => {}
                SetSpec::Map(value) | SetSpec::DynamicMap(value, _) => {
                    a.number(6, Type::concatenated(value)).number(7, Type::length(value));
                }
                SetSpec::VerdictMap => {
                    a.number(6, DATA_TYPE_VERDICT).number(7, DATA_LENGTH_VERDICT);
                }
            }
            if let SetSpec::DynamicMap(_, size) = spec {
                a.nested(9, |description| {
                    description.number(1, size);
                });
            }
            a.number(10, id);
        });
    }

    /// Adds elements to a set or map.
    pub fn add_elements(&mut self, set: &str, elements: &[(Vec<u8>, Data)]) {
        self.elements(NEW_ELEMENT, CREATE, set, elements);
    }

    /// Removes elements by key.
    pub fn delete_elements(&mut self, set: &str, elements: &[(Vec<u8>, Data)]) {
        self.elements(DELETE_ELEMENT, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[(Vec<u8>, Data)]) {
        let table = Arc::clone(&self.table);
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.message(kind, flags, format!("elements of {set}"), |a| {
                a.text(1, &table).text(2, set).nested(3, |list| {
                    for (key, data) in some {
                        list.nested(1, |element| encode_element(element, key, data));
                    }
                });
            });
        }
    }

    /// Closes the transaction: the bytes to send, and what each message is about. The last message
    /// before the end asks for an answer, so that success is answered too.
    pub fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        let last = last_message(&self.buffer);
        let flags = u16::from_ne_bytes([self.buffer[last + 6], self.buffer[last + 7]]) | ACK;
        self.buffer[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
        self.control(BATCH_END);
        (self.buffer, self.about)
    }

    fn message(&mut self, kind: u16, flags: u16, about: String, fill: impl FnOnce(&mut Attributes)) {
        self.raw((SUBSYSTEM << 8) | kind, flags, FAMILY, 0, about, fill);
    }

    /// The messages that open and close a batch name the subsystem it is for.
    fn control(&mut self, kind: u16) {
        self.raw(kind, 0, 0, SUBSYSTEM, "batch".into(), |_| {});
    }

    fn raw(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        about: String,
        fill: impl FnOnce(&mut Attributes),
    ) {
        let at = self.buffer.len();
        let sequence = u32::try_from(self.about.len()).expect("a batch has far fewer messages");
        self.about.push(about);
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&[family, 0]);
        self.buffer.extend_from_slice(&resource.to_be_bytes());
        fill(&mut Attributes::new(&mut self.buffer));
        let length = u32::try_from(self.buffer.len() - at).expect("attributes keep a message small");
        self.buffer[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

fn encode_element(element: &mut Attributes, key: &[u8], data: &Data) {
    element.nested(1, |k| {
        k.bytes(1, key);
    });
    match data {
        Data::None => {}
        Data::Value(value) => {
            element.nested(2, |d| {
                d.bytes(1, value);
            });
        }
        Data::Verdict(verdict) => {
            element.nested(2, |d| verdict.encode(d));
        }
    }
}

/// Where the last message of `buffer` starts.
fn last_message(buffer: &[u8]) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < buffer.len() {
        last = at;
        let length = [buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]];
        at += u32::from_ne_bytes(length) as usize;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::attr::walk;
    use super::*;

    type Attribute = (u16, Vec<u8>);

    /// (type, flags, sequence, attributes) of each message.
    fn messages(bytes: &[u8]) -> Vec<(u16, u16, u32, Vec<Attribute>)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < bytes.len() {
            let word = |o: usize| u32::from_ne_bytes(bytes[at + o..at + o + 4].try_into().unwrap());
            let half = |o: usize| u16::from_ne_bytes(bytes[at + o..at + o + 2].try_into().unwrap());
            let end = at + word(0) as usize;
            let attributes = walk(&bytes[at + 20..end]).map(|(k, v)| (k, v.to_vec())).collect();
            found.push((half(4), half(6), word(8), attributes));
            at = end;
        }
        found
    }

    #[test]
    fn a_batch_is_framed_numbered_and_asks_for_one_answer() {
        let mut batch = Batch::new("proa");
        batch.add_table();
        batch.add_chain("services");
        let (bytes, about) = batch.finish();
        let seen = messages(&bytes);
        assert_eq!(about, ["batch", "table", "chain services", "batch"]);
        let heads: Vec<_> = seen.iter().map(|m| (m.0, m.1, m.2)).collect();
        assert_eq!(heads, [(0x10, 1, 0), (0xa00, 0x401, 1), (0xa03, 0x405, 2), (0x11, 1, 3)]);
        assert_eq!(seen[1].3, [(1, b"proa\0".to_vec())]);
        assert_eq!(seen[2].3, [(1, b"proa\0".to_vec()), (3, b"services\0".to_vec())]);
    }

    #[test]
    fn a_map_declares_types_and_lengths() {
        let mut batch = Batch::new("proa");
        batch.add_set("endpoints", &[Type::Address, Type::Port], SetSpec::Map(&[Type::Address]));
        let (bytes, _) = batch.finish();
        let attributes = &messages(&bytes)[1].3;
        let number = |kind: u16| {
            let value = &attributes.iter().find(|(k, _)| *k == kind).unwrap().1;
            u32::from_be_bytes(value[..].try_into().unwrap())
        };
        assert_eq!((number(3), number(4), number(5)), (8, (7 << 6) | 13, 8));
        assert_eq!((number(6), number(7)), (7, 4));
    }

    #[test]
    fn long_lists_of_elements_are_split() {
        let elements: Vec<_> = (0..1000u32).map(|i| (i.to_be_bytes().to_vec(), Data::None)).collect();
        let mut batch = Batch::new("proa");
        batch.add_elements("hairpin", &elements);
        let (bytes, _) = batch.finish();
        let counts: Vec<_> = messages(&bytes)
            .iter()
            .filter(|m| m.0 == 0xa0c)
            .map(|m| walk(&m.3.iter().find(|(k, _)| *k == 3).unwrap().1).count())
            .collect();
        assert_eq!(counts, [400, 400, 200]);
    }
}
