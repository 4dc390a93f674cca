//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), as OpenSSH speaks it.

use std::io::{self, Read, Write};

/// The version that everybody speaks.
pub(super) const VERSION: u32 = 3;

/// Bytes of data in one packet: what every server must take (section 3).
pub(super) const DATA_BYTES: usize = 32 * 1024;

/// A packet is never larger; OpenSSH's own bound.
const PACKET_BYTES_MAX: u32 = 256 * 1024;

pub(super) const INIT: u8 = 1;
pub(super) const VERSION_REPLY: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const EXTENDED: u8 = 200;
pub(super) const STATUS: u8 = 101;
pub(super) const HANDLE: u8 = 102;
pub(super) const DATA: u8 = 103;
pub(super) const NAME: u8 = 104;
pub(super) const ATTRIBUTES: u8 = 105;
pub(super) const EXTENDED_REPLY: u8 = 201;

/// How a file is opened.
pub(super) const FOR_READING: u32 = 1;
pub(super) const FOR_WRITING_ANEW: u32 = 0x02 | 0x08 | 0x20;

const OK: u32 = 0;
const END: u32 = 1;
const NO_SUCH_FILE: u32 = 2;
const PERMISSION_DENIED: u32 = 3;
const UNSUPPORTED: u32 = 8;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_MORE: u32 = 0x8000_0000;

/// Bits of a mode that tell the type, and that of a plain file.
const TYPE_BITS: u32 = 0o170_000;
const PLAIN_FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;

/// A packet that is being put together.
pub(super) struct Packet(Vec<u8>);

impl Packet {
    pub(super) fn new(kind: u8, number: u32) -> Self {
        Self(vec![0, 0, 0, 0, kind]).u32(number)
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn bytes(self, value: &[u8]) -> Self {
        let mut packet = self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        packet.0.extend_from_slice(value);
        packet
    }

    pub(super) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    /// No attributes, or only a mode.
    pub(super) fn mode(self, mode: Option<u32>) -> Self {
        match mode {
            Some(mode) => self.u32(HAS_MODE).u32(mode),
            None => self.u32(0),
        }
    }

    pub(super) fn send(mut self, to: &mut dyn Write) -> io::Result<()> {
        let length = u32::try_from(self.0.len() - 4).map_err(io::Error::other)?;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        to.write_all(&self.0)
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) kind: u8,
    pub(super) number: u32,
    pub(super) body: Body,
}

impl Reply {
    pub(super) fn receive(from: &mut dyn Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if !(5..=PACKET_BYTES_MAX).contains(&length) {
            return Err(garbled());
        }
        let mut bytes = vec![0; length as usize];
        from.read_exact(&mut bytes)?;
        let mut body = Body { bytes, at: 0 };
        let (kind, number) = (body.u8()?, body.u32()?);
        Ok(Self { kind, number, body })
    }

    /// The body, if it is of the kind that was asked for; a status otherwise.
    pub(super) fn expect(mut self, kind: u8) -> io::Result<Body> {
        match self.kind {
            found if found == kind => Ok(self.body),
            STATUS => Err(self.body.status()?.err().unwrap_or_else(garbled)),
            _ => Err(garbled()),
        }
    }

    /// Whether it was done.
    pub(super) fn done(mut self) -> io::Result<()> {
        match self.kind {
            STATUS => self.body.status()?,
            _ => Err(garbled()),
        }
    }
}

/// The rest of a packet, read from its front.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Vec<u8>,
    at: usize,
}

impl Body {
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(count).ok_or_else(garbled)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(garbled)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?.try_into().map_err(|_| garbled())?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> io::Result<u64> {
        let bytes = self.take(8)?.try_into().map_err(|_| garbled())?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(super) fn data(&mut self) -> io::Result<&[u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(self.data()?).into_owned())
    }

    fn status(&mut self) -> io::Result<io::Result<()>> {
        let code = self.u32()?;
        // Old servers send no words.
        let said = self.text().unwrap_or_default();
        let kind = match code {
            OK => return Ok(Ok(())),
            END => io::ErrorKind::UnexpectedEof,
            NO_SUCH_FILE => io::ErrorKind::NotFound,
            PERMISSION_DENIED => io::ErrorKind::PermissionDenied,
            UNSUPPORTED => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        Ok(Err(io::Error::new(kind, format!("the SFTP server says: {said}"))))
    }

    pub(super) fn attributes(&mut self) -> io::Result<Attributes> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & HAS_SIZE != 0 {
            attributes.bytes = self.u64()?;
        }
        if flags & HAS_OWNER != 0 {
            self.take(8)?;
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = self.u32()?;
        }
        if flags & HAS_TIMES != 0 {
            self.u32()?;
            attributes.modified = Some(self.u32()?);
        }
        if flags & HAS_MORE != 0 {
            for _ in 0..self.u32()?.saturating_mul(2) {
                self.data()?;
            }
        }
        Ok(attributes)
    }
}

/// What a server tells of a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    pub(super) bytes: u64,
    mode: u32,
    pub(super) modified: Option<u32>,
}

impl Attributes {
    pub(super) fn is_file(self) -> bool {
        self.mode & TYPE_BITS == PLAIN_FILE
    }

    pub(super) fn is_folder(self) -> bool {
        self.mode & TYPE_BITS == FOLDER
    }
}

pub(super) fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the SFTP server answers nonsense")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(packet: Packet) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        packet.send(&mut bytes).expect("sent");
        Reply::receive(&mut bytes.as_slice())
    }

    #[test]
    fn a_status_becomes_an_error_of_its_kind() {
        let said = |code: u32| {
            let packet = Packet::new(STATUS, 7).u32(code).text("No space").text("en");
            reply(packet).expect("a reply").done()
        };
        assert!(said(0).is_ok());
        assert_eq!(said(2).expect_err("refused").kind(), io::ErrorKind::NotFound);
        assert_eq!(said(3).expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
        assert!(said(4).expect_err("refused").to_string().contains("No space"));
    }

    #[test]
    fn attributes_are_read_with_everything_that_may_be_between() {
        let flags = HAS_SIZE | HAS_OWNER | HAS_MODE | HAS_TIMES | HAS_MORE;
        let packet = Packet::new(ATTRIBUTES, 7).u32(flags).u64(4711).u32(0).u32(0);
        let packet = packet.u32(0o100_600).u32(1).u32(2).u32(1).text("a").text("b").u32(99);
        let mut body = reply(packet).expect("a reply").expect(ATTRIBUTES).expect("attributes");
        let attributes = body.attributes().expect("attributes");
        assert_eq!((attributes.bytes, attributes.modified), (4711, Some(2)));
        assert!(attributes.is_file() && !attributes.is_folder());
        assert_eq!(body.u32().expect("the rest"), 99);
    }

    #[test]
    fn nonsense_is_refused_and_never_believed() {
        let huge = [0xff; 16];
        assert!(Reply::receive(&mut huge.as_slice()).is_err());
        let lying = Packet::new(DATA, 1).u32(1 << 30);
        assert!(reply(lying).expect("a reply").expect(DATA).expect("data").data().is_err());
        assert!(Reply::receive(&mut [0, 0, 0, 9, 1].as_slice()).is_err());
    }
}
