//! One connection: questions and answers over the pipes of a child.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, BufWriter, Write},
};

use homelab_common::exec::{Exec, Program, Streaming};

use super::wire::{
    ATTRIBUTES, Attributes, Body, CLOSE, DATA, DATA_BYTES, EXTENDED, EXTENDED_REPLY, FOR_READING,
    FOR_WRITING_ANEW, HANDLE, INIT, MKDIR, NAME, OPEN, OPENDIR, Packet, READ, READDIR, REMOVE,
    RENAME, Reply, STAT, VERSION, VERSION_REPLY, WRITE, garbled,
};

/// Packets on their way at once: hides the round trips of a link of 50 ms up to some
/// 20 MB/s, and their answers fit any pipe.
const WINDOW: usize = 32;

/// Files hold whole databases: for their owner's eyes.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";

/// Set in the flags of a file system that is mounted read-only.
const READ_ONLY: u64 = 1;

/// A connection.
pub(super) struct Session {
    replies: BufReader<Streaming>,
    requests: BufWriter<Box<dyn Write + Send>>,
    extensions: BTreeMap<String, String>,
    number: u32,
}

/// An entry of a folder.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) attributes: Attributes,
}

/// Room on the server.
pub(super) struct Room {
    pub(super) available_bytes: u64,
    pub(super) is_writable: bool,
}

impl Session {
    /// Starts the child and greets it.
    pub(super) fn open(exec: &dyn Exec, program: Program) -> io::Result<Self> {
        let failed =
            |error| io::Error::other(homelab_common::error_chain::Chain(&error).to_string());
        let mut child = exec.stream(program.stdin_piped()).map_err(failed)?;
        let stdin = child.take_stdin().ok_or_else(|| io::Error::other("the child has no input"))?;
        let mut session = Self {
            replies: BufReader::new(child),
            requests: BufWriter::new(stdin),
            extensions: BTreeMap::new(),
            number: 0,
        };
        session.send(Packet::new(INIT, VERSION))?;
        let greeting = session.receive()?;
        if greeting.kind != VERSION_REPLY || greeting.number != VERSION {
            return Err(garbled());
        }
        let mut body = greeting.body;
        while !body.is_empty() {
            session.extensions.insert(body.text()?, body.text()?);
        }
        Ok(session)
    }

    fn send(&mut self, packet: Packet) -> io::Result<()> {
        packet.send(&mut self.requests)?;
        self.requests.flush()
    }

    fn receive(&mut self) -> io::Result<Reply> {
        // Whatever keeps an answer from coming ends the connection; only what an answer says
        // is about a file.
        Reply::receive(&mut self.replies).map_err(|error| {
            let text = format!("the SFTP connection ended: {error}");
            io::Error::new(io::ErrorKind::ConnectionAborted, text)
        })
    }

    fn next(&mut self, kind: u8) -> Packet {
        self.number = self.number.wrapping_add(1);
        Packet::new(kind, self.number)
    }

    fn ask(&mut self, packet: Packet) -> io::Result<Reply> {
        self.send(packet)?;
        let reply = self.receive()?;
        if reply.number == self.number { Ok(reply) } else { Err(garbled()) }
    }

    fn knows(&self, extension: &str) -> bool {
        self.extensions.contains_key(extension)
    }

    fn handle(&mut self, packet: Packet) -> io::Result<Vec<u8>> {
        self.ask(packet)?.expect(HANDLE)?.data().map(<[u8]>::to_vec)
    }

    fn close(&mut self, handle: &[u8]) -> io::Result<()> {
        let packet = self.next(CLOSE).bytes(handle);
        self.ask(packet)?.done()
    }

    pub(super) fn attributes(&mut self, path: &str) -> io::Result<Attributes> {
        let packet = self.next(STAT).text(path);
        self.ask(packet)?.expect(ATTRIBUTES)?.attributes()
    }

    pub(super) fn list(&mut self, path: &str) -> io::Result<Vec<Entry>> {
        let packet = self.next(OPENDIR).text(path);
        let handle = self.handle(packet)?;
        let mut entries = Vec::new();
        let ended = loop {
            let packet = self.next(READDIR).bytes(&handle);
            let mut body = match self.ask(packet)?.expect(NAME) {
                Ok(body) => body,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(()),
                Err(error) => break Err(error),
            };
            for _ in 0..body.u32()? {
                let name = body.text()?;
                // As `ls -l` shows it.
                body.data()?;
                let attributes = body.attributes()?;
                if name != "." && name != ".." {
                    entries.push(Entry { name, attributes });
                }
            }
        };
        self.close(&handle)?;
        ended.map(|()| entries)
    }

    pub(super) fn read(&mut self, path: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let packet = self.next(OPEN).text(path).u32(FOR_READING).mode(None);
        let handle = self.handle(packet)?;
        let read = self.read_open(&handle, offset, length);
        self.close(&handle)?;
        read
    }

    /// Several questions at once. A server may give less than was asked for; the rest
    /// is asked for again.
    fn read_open(&mut self, handle: &[u8], offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; length];
        let mut wanted: Vec<(usize, usize)> = (0..length)
            .step_by(DATA_BYTES)
            .map(|start| (start, DATA_BYTES.min(length - start)))
            .rev()
            .collect();
        let mut asked: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        let mut failed = None;
        while !wanted.is_empty() || !asked.is_empty() {
            while asked.len() < WINDOW
                && let Some((start, count)) = wanted.pop()
            {
                let packet = self.next(READ).bytes(handle).u64(offset + start as u64);
                let packet = packet.u32(u32::try_from(count).map_err(io::Error::other)?);
                asked.insert(self.number, (start, count));
                packet.send(&mut self.requests)?;
            }
            self.requests.flush()?;
            let reply = self.receive()?;
            let (start, count) = asked.remove(&reply.number).ok_or_else(garbled)?;
            // All answers must be taken before the next question, whatever they say.
            match reply
                .expect(DATA)
                .and_then(|mut body| place(&mut content, start, count, &mut body))
            {
                Ok(got) if got < count => wanted.push((start + got, count - got)),
                Ok(_) => {}
                Err(error) => {
                    wanted.clear();
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(content), Err)
    }

    /// A new file, flushed where the server can do that; says whether it could.
    pub(super) fn write_new(&mut self, path: &str, content: &[u8]) -> io::Result<bool> {
        let packet = self.next(OPEN).text(path).u32(FOR_WRITING_ANEW).mode(Some(FILE_MODE));
        let handle = self.handle(packet)?;
        let written = self.write_open(&handle, content).and_then(|()| self.flush(&handle));
        // The error of closing counts: a server may write only then.
        let closed = self.close(&handle);
        let flushed = written?;
        closed.map(|()| flushed)
    }

    fn write_open(&mut self, handle: &[u8], content: &[u8]) -> io::Result<()> {
        let mut outstanding = 0;
        let mut failed = None;
        for (number, piece) in content.chunks(DATA_BYTES).enumerate() {
            if failed.is_some() {
                break;
            }
            let offset = (number * DATA_BYTES) as u64;
            let packet = self.next(WRITE).bytes(handle).u64(offset).bytes(piece);
            packet.send(&mut self.requests)?;
            outstanding += 1;
            if outstanding == WINDOW {
                self.requests.flush()?;
                failed = self.receive()?.done().err();
                outstanding -= 1;
            }
        }
        self.requests.flush()?;
        for _ in 0..outstanding {
            if let Err(error) = self.receive()?.done() {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn flush(&mut self, handle: &[u8]) -> io::Result<bool> {
        if !self.knows(FSYNC) {
            return Ok(false);
        }
        let packet = self.next(EXTENDED).text(FSYNC).bytes(handle);
        self.ask(packet)?.done().map(|()| true)
    }

    /// Renames over what is there. Without OpenSSH's extension the standard forbids
    /// that, and the old file has to go first.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        if self.knows(POSIX_RENAME) {
            let packet = self.next(EXTENDED).text(POSIX_RENAME).text(from).text(to);
            return self.ask(packet)?.done();
        }
        let packet = self.next(RENAME).text(from).text(to);
        if self.ask(packet)?.done().is_ok() {
            return Ok(());
        }
        self.remove(to)?;
        let packet = self.next(RENAME).text(from).text(to);
        self.ask(packet)?.done()
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        let packet = self.next(REMOVE).text(path);
        self.ask(packet)?.done()
    }

    /// A folder that is there is no error.
    pub(super) fn make_folder(&mut self, path: &str) -> io::Result<()> {
        let packet = self.next(MKDIR).text(path).mode(Some(FOLDER_MODE));
        match self.ask(packet)?.done() {
            // The server has no word of its own for "it is there".
            Err(error) if error.kind() == io::ErrorKind::Other => match self.attributes(path) {
                Ok(attributes) if attributes.is_folder() => Ok(()),
                _ => Err(error),
            },
            outcome => outcome,
        }
    }

    /// Absent where the server cannot say.
    pub(super) fn room(&mut self, path: &str) -> io::Result<Option<Room>> {
        if !self.knows(STATVFS) {
            return Ok(None);
        }
        let packet = self.next(EXTENDED).text(STATVFS).text(path);
        let mut body = self.ask(packet)?.expect(EXTENDED_REPLY)?;
        let mut fields = [0; 10];
        for field in &mut fields {
            *field = body.u64()?;
        }
        let [_, fragment, _, _, available, _, _, _, _, flags] = fields;
        let available_bytes = fragment.saturating_mul(available);
        Ok(Some(Room { available_bytes, is_writable: flags & READ_ONLY == 0 }))
    }
}

fn place(content: &mut [u8], start: usize, count: usize, body: &mut Body) -> io::Result<usize> {
    let data = body.data()?;
    if data.is_empty() || data.len() > count {
        return Err(garbled());
    }
    let target = content.get_mut(start..start + data.len()).ok_or_else(garbled)?;
    target.copy_from_slice(data);
    Ok(data.len())
}
