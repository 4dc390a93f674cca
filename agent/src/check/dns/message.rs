//! One question and its reply in the format of RFC 1035, section 4. Reading is bounded by the
//! packet: every step goes forward, and compressed names are stepped over and never followed.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::health::label;

const HEADER_BYTES: usize = 12;
const CLASS_INTERNET: u16 = 1;
const RECURSION_DESIRED: u16 = 0x0100;
const IS_REPLY: u16 = 0x8000;
const IS_TRUNCATED: u16 = 0x0200;
const CODE_MASK: u16 = 0x000f;
const CODE_NO_SUCH_NAME: u16 = 3;
const RECORDS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Text.
    Txt,
}

impl RecordType {
    /// Reads the name of a type, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "A" => Some(Self::A),
            "AAAA" => Some(Self::Aaaa),
            "TXT" => Some(Self::Txt),
            _ => None,
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Txt => 16,
            Self::Aaaa => 28,
        }
    }

    /// The record's data in words; `None` when it has the wrong form.
    fn show(self, data: &[u8]) -> Option<String> {
        match self {
            Self::A => Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string()),
            Self::Aaaa => Some(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string()),
            Self::Txt => {
                let (mut text, mut rest) = (Vec::new(), data);
                while let Some((&length, tail)) = rest.split_first() {
                    text.extend_from_slice(tail.get(..usize::from(length))?);
                    rest = tail.get(usize::from(length)..)?;
                }
                Some(label(&text, 1024))
            }
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Txt => "TXT",
        })
    }
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// These; none when the name exists without such records.
    Records(Vec<String>),
    /// There is no such name.
    NoSuchName,
    /// It would or could not answer, with this code.
    Refused(u16),
}

/// Why a packet is not our reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It answers another question.
    NotOurs,
    /// It did not fit and has to be asked for over TCP.
    Truncated,
    /// It has not the form of a message.
    Malformed,
}

/// A question, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Question {
    packet: Vec<u8>,
    record_type: RecordType,
}

impl Question {
    /// `None` when `name` is no DNS name.
    pub(super) fn new(id: u16, name: &str, record_type: RecordType) -> Option<Self> {
        let mut packet = Vec::with_capacity(HEADER_BYTES + name.len() + 6);
        for number in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
            packet.extend_from_slice(&number.to_be_bytes());
        }
        for part in name.strip_suffix('.').unwrap_or(name).split('.') {
            let length =
                u8::try_from(part.len()).ok().filter(|length| (1..=63).contains(length))?;
            packet.push(length);
            packet.extend_from_slice(part.as_bytes());
        }
        packet.push(0);
        if packet.len() > HEADER_BYTES + 255 {
            return None;
        }
        for number in [record_type.number(), CLASS_INTERNET] {
            packet.extend_from_slice(&number.to_be_bytes());
        }
        Some(Self { packet, record_type })
    }

    pub(super) fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Reads a packet as the reply to this question.
    pub(super) fn read_reply(&self, packet: &[u8]) -> Result<Reply, Rejected> {
        let mut reader = Reader { rest: packet };
        let id = reader.u16().ok_or(Rejected::NotOurs)?;
        if Some(id) != (Reader { rest: &self.packet }).u16() {
            return Err(Rejected::NotOurs);
        }
        let mut header = || reader.u16().ok_or(Rejected::Malformed);
        let (flags, questions, answers) = (header()?, header()?, header()?);
        let (_authorities, _additional) = (header()?, header()?);
        if flags & IS_REPLY == 0 {
            return Err(Rejected::NotOurs);
        }
        // A refusal may leave the question out; what is there must be ours.
        let ours = self.packet.get(HEADER_BYTES..).unwrap_or_default();
        match questions {
            0 => {}
            1 => match reader.take(ours.len()) {
                Some(theirs) if theirs.eq_ignore_ascii_case(ours) => {}
                _ => return Err(Rejected::NotOurs),
            },
            _ => return Err(Rejected::Malformed),
        }
        match flags & CODE_MASK {
            _ if flags & IS_TRUNCATED != 0 => Err(Rejected::Truncated),
            0 => self.records(reader, answers).map(Reply::Records).ok_or(Rejected::Malformed),
            CODE_NO_SUCH_NAME => Ok(Reply::NoSuchName),
            code => Ok(Reply::Refused(code)),
        }
    }

    /// Records of the type asked for; those of other types, such as the aliases on the way, are
    /// left out.
    fn records(&self, mut reader: Reader<'_>, count: u16) -> Option<Vec<String>> {
        let mut records = Vec::new();
        for _ in 0..count {
            reader.skip_name()?;
            let (kind, class) = (reader.u16()?, reader.u16()?);
            let _time_to_live = (reader.u16()?, reader.u16()?);
            let length = reader.u16()?;
            let data = reader.take(usize::from(length))?;
            let is_wanted = kind == self.record_type.number() && class == CLASS_INTERNET;
            if is_wanted && records.len() < RECORDS_MAX {
                records.push(self.record_type.show(data)?);
            }
        }
        Some(records)
    }
}

struct Reader<'p> {
    rest: &'p [u8],
}

impl<'p> Reader<'p> {
    fn take(&mut self, count: usize) -> Option<&'p [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    }

    /// A name ends with an empty label or with a pointer to another place.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            let &[length] = self.take(1)? else { return None };
            match length {
                0 => return Some(()),
                1..=63 => self.take(usize::from(length)).map(|_| ())?,
                0xc0.. => return self.take(1).map(|_| ()),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
pub(in crate::check::dns) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reply to `question` with one record, or with none when `data` is empty.
    pub(in crate::check::dns) fn answer(
        question: &[u8],
        code: u8,
        record_type: RecordType,
        data: &[u8],
    ) -> Vec<u8> {
        let mut reply = question.to_vec();
        (reply[2], reply[3]) = (0x81, 0x80 | code);
        if !data.is_empty() {
            reply[7] = 1;
            reply.extend_from_slice(&[0xc0, 12]);
            reply.extend_from_slice(&record_type.number().to_be_bytes());
            reply.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            reply.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend_from_slice(data);
        }
        reply
    }

    pub(in crate::check::dns) fn truncated(question: &[u8]) -> Vec<u8> {
        let mut reply = answer(question, 0, RecordType::A, &[]);
        reply[2] |= 0x02;
        reply
    }

    fn question() -> Question {
        Question::new(7, "db.home.arpa", RecordType::A).unwrap()
    }

    #[test]
    fn a_question_has_the_form_of_the_standard() {
        let expected = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
            \x02db\x04home\x04arpa\x00\x00\x01\x00\x01";
        assert_eq!(question().packet(), expected);
    }

    #[test]
    fn names_that_the_dns_cannot_hold_are_refused() {
        let long = "a".repeat(64);
        let deep = ["abcdefg"; 40].join(".");
        for name in ["", "a..b", ".", long.as_str(), deep.as_str()] {
            assert!(Question::new(7, name, RecordType::A).is_none(), "{name}");
        }
    }

    #[test]
    fn a_reply_in_other_letters_is_still_ours() {
        let upper = Question::new(7, "DB.HOME.ARPA", RecordType::A).unwrap();
        let reply = answer(upper.packet(), 0, RecordType::A, &[10, 0, 0, 1]);
        let expected = Reply::Records(vec!["10.0.0.1".to_owned()]);
        assert_eq!(question().read_reply(&reply), Ok(expected));
    }

    #[test]
    fn a_reply_to_another_name_is_not_ours() {
        let other = Question::new(7, "xx.home.arpa", RecordType::A).unwrap();
        let reply = answer(other.packet(), 0, RecordType::A, &[10, 0, 0, 1]);
        assert_eq!(question().read_reply(&reply), Err(Rejected::NotOurs));
        assert_eq!(question().read_reply(question().packet()), Err(Rejected::NotOurs));
    }

    #[test]
    fn an_address_of_the_wrong_length_is_malformed() {
        let reply = answer(question().packet(), 0, RecordType::A, &[10, 0, 0]);
        assert_eq!(question().read_reply(&reply), Err(Rejected::Malformed));
    }

    #[test]
    fn a_name_of_pointers_to_itself_ends() {
        let mut reply = answer(question().packet(), 0, RecordType::A, &[10, 0, 0, 1]);
        let pointer = question().packet().len() + 1;
        reply[pointer] = u8::try_from(pointer - 1).unwrap();
        assert!(question().read_reply(&reply).is_ok());
    }

    proptest! {
        #[test]
        fn any_packet_is_survived(mut packet: Vec<u8>) {
            let _reply = question().read_reply(&packet);
            packet.splice(0..0, [0, 7, 0x81, 0x80]);
            let _reply = question().read_reply(&packet);
        }

        #[test]
        fn any_change_of_a_good_reply_is_survived(at in 0_usize..45, byte: u8, end in 0_usize..46) {
            let mut reply = answer(question().packet(), 0, RecordType::A, &[10, 0, 0, 1]);
            if let Some(changed) = reply.get_mut(at) {
                *changed = byte;
            }
            reply.truncate(end);
            let _reply = question().read_reply(&reply);
        }

        #[test]
        fn any_name_is_survived(name: String) {
            if let Some(question) = Question::new(7, &name, RecordType::Txt) {
                prop_assert!(question.packet().len() <= 12 + 255 + 4);
            }
        }
    }
}
