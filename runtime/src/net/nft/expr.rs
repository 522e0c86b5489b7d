//! The expressions a rule is made of, as values, and their encoding.
//!
//! Pure. Only the expressions the pod network needs. A rule runs its expressions from left to right;
//! the first that does not match ends it. Source: linux/netfilter/nf_tables.h.

use super::attr::Attributes;

/// A 32-bit register of the nf_tables machine. Values longer than four bytes lie in consecutive ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register(pub u8);

impl Register {
    /// Number of the first 32-bit register; lower numbers address the older 128-bit ones.
    const FIRST: u32 = 8;

    fn number(self) -> u32 {
        assert!(self.0 < 16, "there are sixteen registers");
        Self::FIRST + u32::from(self.0)
    }
}

/// Where a rule or a map's element sends the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Continue in a chain and come back.
    Jump(String),
    /// Continue in a chain and not come back.
    Goto(String),
    /// Leave the chain.
    Return,
    /// End the packet.
    Drop,
}

/// A field of the packet's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// IPv4 source address.
    SourceAddress,
    /// IPv4 destination address.
    DestinationAddress,
    /// Destination port of TCP, UDP and SCTP, which all keep it in the same place.
    DestinationPort,
}

/// What the kernel knows about a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meta {
    /// Name of the interface it came in by, 16 bytes.
    InputName,
    /// Name of the interface it goes out by, 16 bytes.
    OutputName,
    /// Number of the protocol above IP.
    Protocol,
}

/// How a refused packet is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refuse {
    /// ICMP port unreachable.
    PortUnreachable,
    /// A TCP segment with RST.
    TcpReset,
}

/// One expression of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expr {
    /// Load a header field.
    Load(Field, Register),
    /// Load something the kernel knows.
    LoadMeta(Meta, Register),
    /// Load the status bits of the connection (`IPS_…`, host order).
    LoadConnectionStatus(Register),
    /// Load what kind of address the destination is to this host (`RTN_…`, host order).
    LoadDestinationKind(Register),
    /// Load constant bytes.
    Constant(Vec<u8>, Register),
    /// Keep only the bits of a mask.
    Mask(Register, Vec<u8>),
    /// Match if the register starts with these bytes.
    Equal(Register, Vec<u8>),
    /// Match unless the register starts with these bytes.
    Differs(Register, Vec<u8>),
    /// Match if the value that starts at the register is in the set.
    In(&'static str, Register),
    /// Look the value up in a map and load what it maps to.
    Map(&'static str, Register, Register),
    /// Look the value up in a verdict map and follow the verdict.
    VerdictMap(&'static str, Register),
    /// Load a random number below the modulus.
    Random(u32, Register),
    /// Put the key with its data into a dynamic map for so long, or let what is there stay so much
    /// longer. Does not match when the map is full.
    Remember { map: &'static str, key: Register, data: Register, timeout_seconds: u32 },
    /// Take the key out of a dynamic map, if it is there. The kernel wants a register of data here too.
    Forget { map: &'static str, key: Register, data: Register },
    /// Rewrite the destination of the connection.
    DestinationNat { address: Register, port: Register },
    /// Rewrite the source address of the connection.
    SourceNat(Register),
    /// Rewrite the source address to that of the interface it leaves by.
    Masquerade,
    /// Answer with a refusal.
    Reject(Refuse),
    /// Decide.
    Verdict(Verdict),
}

const ELEMENT: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const FAMILY_IPV4: u32 = 2;
const VERDICT_REGISTER: u32 = 0;

impl Verdict {
    /// Appends the verdict as the data of an element or of an immediate expression.
    pub fn encode(&self, data: &mut Attributes) {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        data.nested(DATA_VERDICT, |verdict| {
            verdict.number(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                verdict.text(VERDICT_CHAIN, chain);
            }
        });
    }
}

impl Expr {
    /// Appends the expression to a rule's list.
    pub fn encode(&self, list: &mut Attributes) {
        list.nested(ELEMENT, |element| {
            element.text(EXPR_NAME, self.name()).nested(EXPR_DATA, |data| self.encode_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Load(..) => "payload",
            Expr::LoadMeta(..) => "meta",
            Expr::LoadConnectionStatus(_) => "ct",
            Expr::LoadDestinationKind(_) => "fib",
            Expr::Constant(..) | Expr::Verdict(_) => "immediate",
            Expr::Mask(..) => "bitwise",
            Expr::Equal(..) | Expr::Differs(..) => "cmp",
            Expr::In(..) | Expr::Map(..) | Expr::VerdictMap(..) => "lookup",
            Expr::Random(..) => "numgen",
            Expr::Remember { .. } | Expr::Forget { .. } => "dynset",
            Expr::DestinationNat { .. } | Expr::SourceNat(_) => "nat",
            Expr::Masquerade => "masq",
            Expr::Reject(_) => "reject",
        }
    }

    /// The numbers are the attributes of each expression in the order of linux/netfilter/nf_tables.h.
    fn encode_data(&self, data: &mut Attributes) {
        match self {
            Expr::Load(field, into) => {
                let (base, offset, length) = match field {
                    Field::SourceAddress => (NETWORK_HEADER, 12, 4),
                    Field::DestinationAddress => (NETWORK_HEADER, 16, 4),
                    Field::DestinationPort => (TRANSPORT_HEADER, 2, 2),
                };
                data.number(1, into.number()).number(2, base).number(3, offset).number(4, length);
            }
            Expr::LoadMeta(meta, into) => {
                let key = match meta {
                    Meta::InputName => 6,
                    Meta::OutputName => 7,
                    Meta::Protocol => 16,
                };
                data.number(1, into.number()).number(2, key);
            }
            Expr::LoadConnectionStatus(into) => {
                const STATUS: u32 = 2;
                data.number(1, into.number()).number(2, STATUS);
            }
            Expr::LoadDestinationKind(into) => {
                const ADDRESS_TYPE: u32 = 3;
                const DESTINATION: u32 = 2;
                data.number(1, into.number()).number(2, ADDRESS_TYPE).number(3, DESTINATION);
            }
            Expr::Constant(value, into) => {
                data.number(1, into.number()).nested(2, |d| {
                    d.bytes(DATA_VALUE, value);
                });
            }
            Expr::Mask(register, mask) => {
                let length = u32::try_from(mask.len()).expect("a mask is a few bytes");
                data.number(1, register.number()).number(2, register.number()).number(3, length);
                data.nested(4, |d| {
                    d.bytes(DATA_VALUE, mask);
                });
                data.nested(5, |d| {
                    d.bytes(DATA_VALUE, &vec![0; mask.len()]);
                });
            }
            Expr::Equal(register, value) => compare(data, *register, 0, value),
            Expr::Differs(register, value) => compare(data, *register, 1, value),
            Expr::In(set, key) => {
                data.text(1, set).number(2, key.number());
            }
            Expr::Map(set, key, into) => {
                data.text(1, set).number(2, key.number()).number(3, into.number());
            }
            Expr::VerdictMap(set, key) => {
                data.text(1, set).number(2, key.number()).number(3, VERDICT_REGISTER);
            }
            Expr::Random(modulus, into) => {
                const RANDOM: u32 = 1;
                data.number(1, into.number()).number(2, *modulus).number(3, RANDOM).number(4, 0);
            }
            Expr::Remember { map, key, data: value, timeout_seconds } => {
                const UPDATE: u32 = 1;
                data.text(1, map).number(3, UPDATE).number(4, key.number()).number(5, value.number());
                data.bytes(6, &(u64::from(*timeout_seconds) * 1000).to_be_bytes());
            }
            Expr::Forget { map, key, data: value } => {
                const DELETE: u32 = 2;
                data.text(1, map).number(3, DELETE).number(4, key.number()).number(5, value.number());
            }
            Expr::DestinationNat { address, port } => {
                const DESTINATION: u32 = 1;
                data.number(1, DESTINATION).number(2, FAMILY_IPV4);
                data.number(3, address.number()).number(5, port.number());
            }
            Expr::SourceNat(address) => {
                const SOURCE: u32 = 0;
                data.number(1, SOURCE).number(2, FAMILY_IPV4).number(3, address.number());
            }
            Expr::Masquerade => {}
            Expr::Reject(Refuse::PortUnreachable) => {
                data.number(1, 0).bytes(2, &[3]);
            }
            Expr::Reject(Refuse::TcpReset) => {
                data.number(1, 1).bytes(2, &[0]);
            }
            Expr::Verdict(verdict) => {
                data.number(1, VERDICT_REGISTER).nested(2, |d| verdict.encode(d));
            }
        }
    }
}

fn compare(data: &mut Attributes, register: Register, operation: u32, value: &[u8]) {
    data.number(1, register.number()).number(2, operation).nested(3, |d| {
        d.bytes(DATA_VALUE, value);
    });
}

#[cfg(test)]
mod tests {
    use super::super::attr::walk;
    use super::*;

    /// The name and the attributes of an encoded expression.
    fn encoded(expr: &Expr) -> (String, Vec<(u16, Vec<u8>)>) {
        let mut buffer = Vec::new();
        expr.encode(&mut Attributes::new(&mut buffer));
        let (_, element) = walk(&buffer).next().unwrap();
        let parts: Vec<_> = walk(element).collect();
        let name = String::from_utf8(parts[0].1.to_vec()).unwrap();
        (name, walk(parts[1].1).map(|(kind, value)| (kind, value.to_vec())).collect())
    }

    #[test]
    fn a_load_names_base_offset_and_length() {
        let (name, data) = encoded(&Expr::Load(Field::DestinationPort, Register(2)));
        assert_eq!(name, "payload\0");
        let numbers: Vec<_> = data.iter().map(|(kind, value)| (*kind, value[3])).collect();
        assert_eq!(numbers, [(1, 10), (2, 2), (3, 2), (4, 2)]);
    }

    #[test]
    fn a_verdict_carries_its_chain() {
        let (name, data) = encoded(&Expr::Verdict(Verdict::Goto("refuse".into())));
        assert_eq!(name, "immediate\0");
        assert_eq!(data[0], (1, vec![0, 0, 0, 0]));
        let (kind, verdict) = walk(&data[1].1).next().unwrap();
        assert_eq!(kind, DATA_VERDICT);
        let parts: Vec<_> = walk(verdict).collect();
        assert_eq!(parts, [(1, &(-4i32).to_be_bytes()[..]), (2, &b"refuse\0"[..])]);
    }

    #[test]
    fn a_comparison_keeps_its_bytes() {
        let (name, data) = encoded(&Expr::Differs(Register(0), vec![127]));
        assert_eq!(name, "cmp\0");
        assert_eq!(data[1], (2, vec![0, 0, 0, 1]));
        assert_eq!(walk(&data[2].1).next(), Some((1, &[127][..])));
    }
}
