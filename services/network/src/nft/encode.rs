//! A [`Table`] as the netlink messages of one transaction.
//!
//! Layout: include/uapi/linux/netfilter/{nfnetlink.h,nf_tables.h}; integers in attributes are big-endian. The batch adds the
//! table, deletes it and adds it anew: the kernel commits all or nothing, and no packet meets a half of it. What rules do
//! is what `nft --debug=netlink` shows for their text.

use super::{Chain, ConnectionState, Hook, Match, Policy, Protocol, Rule, Table, Verdict, mask};

/// The messages of a transaction, and for each the thing it is about: message `n` has sequence number `n`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) subjects: Vec<String>,
}

/// The transaction that puts `table` in the place of the one of the same name, if any.
pub(crate) fn replacement(table: &Table) -> Batch {
    let mut batch = Batch { bytes: Vec::new(), subjects: Vec::new() };
    let name = Attributes::default().text(NFTA_NAME, table.name);
    batch.push(BATCH_BEGIN, 0, BATCH_HEADER, Attributes::default(), "the start of the batch".into());
    for kind in [NEWTABLE, DELTABLE, NEWTABLE] {
        batch.push(kind, NLM_F_CREATE | NLM_F_ACK, HEADER, name.clone(), format!("table {}", table.name));
    }
    for chain in &table.chains {
        let subject = format!("chain {}", chain.hook.name());
        batch.push(NEWCHAIN, NLM_F_CREATE | NLM_F_ACK, HEADER, chain_attributes(table, chain), subject);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let subject = format!("rule \"{rule}\" of chain {}", chain.hook.name());
            let attributes = rule_attributes(table, chain, rule);
            batch.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK, HEADER, attributes, subject);
        }
    }
    batch.push(BATCH_END, 0, BATCH_HEADER, Attributes::default(), "the end of the batch".into());
    batch
}

impl Batch {
    /// struct nlmsghdr { u32 length; u16 type; u16 flags; u32 sequence; u32 port; }, then struct nfgenmsg, then attributes.
    fn push(&mut self, kind: u16, flags: u16, header: [u8; 4], attributes: Attributes, subject: String) {
        let sequence = self.subjects.len() as u32;
        let length = (NLMSGHDR_BYTES + header.len() + attributes.0.len()) as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(header);
        self.bytes.extend(attributes.0);
        self.subjects.push(subject);
    }
}

fn chain_attributes(table: &Table, chain: &Chain) -> Attributes {
    let (kind, priority, _) = chain.hook.place();
    let number = match chain.hook {
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Postrouting => 4,
    };
    let policy = match chain.policy {
        Policy::Drop => NF_DROP,
        Policy::Accept => NF_ACCEPT,
    };
    let hook = Attributes::default()
        .number(NFTA_HOOK_HOOKNUM, number)
        .bytes(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
    Attributes::default()
        .text(NFTA_CHAIN_TABLE, table.name)
        .text(NFTA_CHAIN_NAME, chain.hook.name())
        .nest(NFTA_CHAIN_HOOK, &hook)
        .number(NFTA_CHAIN_POLICY, policy)
        .text(NFTA_CHAIN_TYPE, kind)
}

fn rule_attributes(table: &Table, chain: &Chain, rule: &Rule) -> Attributes {
    let mut expressions = Attributes::default();
    for one in &rule.matches {
        expressions = match_expressions(expressions, one);
    }
    expressions = expressions.expression("counter", &Attributes::default());
    expressions = match rule.verdict {
        Verdict::Accept => expressions.verdict(NF_ACCEPT),
        Verdict::Drop => expressions.verdict(NF_DROP),
        Verdict::Masquerade => expressions.expression("masq", &Attributes::default()),
    };
    Attributes::default()
        .text(NFTA_RULE_TABLE, table.name)
        .text(NFTA_RULE_CHAIN, chain.hook.name())
        .nest(NFTA_RULE_EXPRESSIONS, &expressions)
}

fn match_expressions(expressions: Attributes, one: &Match) -> Attributes {
    match one {
        Match::From(name) => expressions.meta(NFT_META_IIFNAME).equal(&padded(name.as_str())),
        Match::To(name) => expressions.meta(NFT_META_OIFNAME).equal(&padded(name.as_str())),
        Match::State(state) => {
            // include/uapi/linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT.
            let bits: u32 = match state {
                ConnectionState::Invalid => 1,
                ConnectionState::EstablishedOrRelated => 2 | 4,
            };
            let load =
                Attributes::default().number(NFTA_CT_DREG, NFT_REG_1).number(NFTA_CT_KEY, NFT_CT_STATE);
            let masked = expressions.expression("ct", &load).masked(&bits.to_ne_bytes());
            masked.compare(NFT_CMP_NEQ, &[0; 4])
        }
        Match::Protocol(Protocol::Icmp) => expressions.transport(IPPROTO_ICMP),
        Match::Protocol(Protocol::Icmpv6) => expressions.transport(IPPROTO_ICMPV6),
        Match::TcpTo(port) => expressions.transport(IPPROTO_TCP).port(DESTINATION_PORT, *port),
        Match::UdpFrom(port) => expressions.transport(IPPROTO_UDP).port(SOURCE_PORT, *port),
        Match::UdpTo(port) => expressions.transport(IPPROTO_UDP).port(DESTINATION_PORT, *port),
        Match::Source(network) => expressions
            .meta(NFT_META_NFPROTO)
            .equal(&[NFPROTO_IPV4])
            .payload(NFT_PAYLOAD_NETWORK_HEADER, IPV4_SOURCE, 4)
            .masked(&mask(network.prefix).to_be_bytes())
            .equal(&network.address.octets()),
    }
}

/// Interface names fill all of IFNAMSIZ when compared as a whole.
fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// Attributes one after the other: struct nlattr { u16 length; u16 type; }, the value, padding to four bytes.
#[derive(Clone, Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // All values here are names, numbers and a handful of expressions: far below 64 KiB.
        let length = (NLATTR_BYTES + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn nest(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &value.0)
    }

    fn expression(self, name: &str, data: &Self) -> Self {
        let expression = Self::default().text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        self.nest(NFTA_LIST_ELEM, &expression)
    }

    fn meta(self, key: u32) -> Self {
        let load = Self::default().number(NFTA_META_DREG, NFT_REG_1).number(NFTA_META_KEY, key);
        self.expression("meta", &load)
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let load = Self::default()
            .number(NFTA_PAYLOAD_DREG, NFT_REG_1)
            .number(NFTA_PAYLOAD_BASE, base)
            .number(NFTA_PAYLOAD_OFFSET, offset)
            .number(NFTA_PAYLOAD_LEN, length);
        self.expression("payload", &load)
    }

    fn masked(self, mask: &[u8; 4]) -> Self {
        let value = |bytes: &[u8]| Self::default().bytes(NFTA_DATA_VALUE, bytes);
        let bitwise = Self::default()
            .number(NFTA_BITWISE_SREG, NFT_REG_1)
            .number(NFTA_BITWISE_DREG, NFT_REG_1)
            .number(NFTA_BITWISE_LEN, 4)
            .nest(NFTA_BITWISE_MASK, &value(mask))
            .nest(NFTA_BITWISE_XOR, &value(&[0; 4]));
        self.expression("bitwise", &bitwise)
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let compare = Self::default()
            .number(NFTA_CMP_SREG, NFT_REG_1)
            .number(NFTA_CMP_OP, operation)
            .nest(NFTA_CMP_DATA, &Self::default().bytes(NFTA_DATA_VALUE, value));
        self.expression("cmp", &compare)
    }

    fn equal(self, value: &[u8]) -> Self {
        self.compare(NFT_CMP_EQ, value)
    }

    fn transport(self, protocol: u8) -> Self {
        self.meta(NFT_META_L4PROTO).equal(&[protocol])
    }

    fn port(self, offset: u32, port: u16) -> Self {
        self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2).equal(&port.to_be_bytes())
    }

    fn verdict(self, code: u32) -> Self {
        let verdict = Self::default().number(NFTA_VERDICT_CODE, code);
        let data = Self::default().nest(NFTA_DATA_VERDICT, &verdict);
        let immediate = Self::default().number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        self.expression("immediate", &immediate.nest(NFTA_IMMEDIATE_DATA, &data))
    }
}

pub(super) const NLMSGHDR_BYTES: usize = 16;
const NLATTR_BYTES: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// NFNL_SUBSYS_NFTABLES, in the upper half of a message's type.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = NFTABLES << 8;
const DELTABLE: u16 = NFTABLES << 8 | 2;
const NEWCHAIN: u16 = NFTABLES << 8 | 3;
const NEWRULE: u16 = NFTABLES << 8 | 6;

/// struct nfgenmsg { u8 family; u8 version; be16 resource; }, family NFPROTO_INET.
const HEADER: [u8; 4] = [1, 0, 0, 0];
/// The same without a family, for the subsystem.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, NFTABLES as u8];

const NFTA_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;

const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFPROTO_IPV4: u8 = 2;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// Offset of the source address in an IPv4 header (RFC 791 §3.1).
const IPV4_SOURCE: u32 = 12;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let attributes = Attributes::default().text(1, "ab").number(2, 7);
        let mut expected = Vec::new();
        expected.extend(7u16.to_ne_bytes());
        expected.extend(1u16.to_ne_bytes());
        expected.extend(b"ab\0\0");
        expected.extend(8u16.to_ne_bytes());
        expected.extend(2u16.to_ne_bytes());
        expected.extend([0, 0, 0, 7]);
        assert_eq!(attributes.0, expected);
    }

    #[test]
    fn a_batch_is_whole_messages_numbered_from_zero() {
        let rule = Rule { matches: vec![Match::TcpTo(80)], verdict: Verdict::Accept };
        let chain = Chain { hook: Hook::Input, policy: Policy::Drop, rules: vec![rule] };
        let batch = replacement(&Table { name: "t", chains: vec![chain] });
        let mut rest = &batch.bytes[..];
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes")) as usize;
            let sequence = u32::from_ne_bytes(rest[8..12].try_into().expect("four bytes"));
            assert_eq!(sequence as usize, kinds.len());
            kinds.push(u16::from_ne_bytes(rest[4..6].try_into().expect("two bytes")));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [BATCH_BEGIN, NEWTABLE, DELTABLE, NEWTABLE, NEWCHAIN, NEWRULE, BATCH_END]);
        assert_eq!(batch.subjects.len(), kinds.len());
    }
}
