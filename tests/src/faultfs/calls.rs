//! The calls of the kernel, answered from the folder that is shown.
//!
//! Nothing is cached by the kernel: every look and every byte comes by here.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Fault, Shared};

const UNCACHED: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;

#[derive(Debug)]
pub(super) struct Calls(pub(super) Arc<Shared>);

impl Calls {
    fn real(&self, path: &Path) -> std::path::PathBuf {
        self.0.backing.join(path)
    }

    fn look(&self, path: &Path) -> Result<FileAttr, Errno> {
        let metadata = fs::symlink_metadata(self.real(path))?;
        let number = self.0.state().nodes.number(path);
        Ok(attributes(&metadata, number))
    }

    fn make_folder(&self, parent: INodeNo, name: &OsStr, mode: u32) -> Result<FileAttr, Errno> {
        let path = self.0.change()?.nodes.child(parent, name)?;
        fs::DirBuilder::new().mode(mode).create(self.real(&path))?;
        self.look(&path)
    }

    fn make_file(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<(FileAttr, FileHandle), Errno> {
        let path = self.0.change()?.nodes.child(parent, name)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).mode(mode).open(self.real(&path))?;
        let attributes = self.look(&path)?;
        Ok((attributes, self.0.state().nodes.opened(file, path)))
    }

    fn open_file(&self, node: INodeNo, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let path = self.0.wait().nodes.path(node)?;
        let is_written = flags.acc_mode() != fuser::OpenAccMode::O_RDONLY;
        let file = OpenOptions::new().read(true).write(is_written).open(self.real(&path))?;
        Ok(self.0.state().nodes.opened(file, path))
    }

    fn write_file(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let state = self.0.change()?;
        let ((file, path), fault) = (state.nodes.file(handle)?, state.fault);
        drop(state);
        let written = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        match fault {
            Some(Fault::FlipsABit(below)) if path.starts_with(below) => {
                let mut data = data.to_vec();
                let middle = data.len() / 2;
                if let Some(byte) = data.get_mut(middle) {
                    *byte ^= 4;
                }
                file.write_all_at(&data, offset)?;
            }
            Some(Fault::Cuts(below)) if path.starts_with(below) => {
                file.write_all_at(data.split_last().map_or(data, |(_, rest)| rest), offset)?;
            }
            _ => file.write_all_at(data, offset)?,
        }
        Ok(written)
    }

    fn close_file(&self, handle: FileHandle) -> Result<(), Errno> {
        let state = self.0.wait();
        let (file, path) = state.nodes.file(handle)?;
        match state.fault {
            Some(Fault::FailsToClose(below)) if path.starts_with(below) => {
                drop(state);
                // What was written goes, as where there is no room for it after all. A file
                // that was only read cannot be cut.
                file.set_len(0).map_or(Ok(()), |()| Err(Errno::EDQUOT))
            }
            _ => Ok(()),
        }
    }

    fn flush_file(&self, handle: FileHandle) -> Result<(), Errno> {
        let state = self.0.change()?;
        if state.fault == Some(Fault::NoFlush) {
            return Err(Errno::EINVAL);
        }
        // What is tested is no power cut of this host: its disk need not turn.
        state.nodes.file(handle).map(drop)
    }

    fn flush_names(&self, node: INodeNo) -> Result<(), Errno> {
        let state = self.0.change()?;
        match state.fault {
            Some(Fault::NoFlushOfNames) => Err(Errno::EINVAL),
            Some(Fault::FailsToFlushNames) => Err(Errno::EIO),
            _ => state.nodes.path(node).map(drop),
        }
    }

    fn remove(
        &self,
        parent: INodeNo,
        name: &OsStr,
        remove: impl Fn(&Path) -> std::io::Result<()>,
    ) -> Result<(), Errno> {
        let mut state = self.0.change()?;
        let path = state.nodes.child(parent, name)?;
        if state.fault == Some(Fault::ForgetsRemovals) {
            return Ok(());
        }
        remove(&self.real(&path))?;
        state.nodes.gone(&path);
        Ok(())
    }

    fn move_to(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let mut state = self.0.change()?;
        let (from, to) = (state.nodes.child(from.0, from.1)?, state.nodes.child(to.0, to.1)?);
        let (real_from, real_to) = (self.real(&from), self.real(&to));
        match state.fault {
            Some(Fault::NoReplacing) if real_to.exists() => return Err(Errno::EEXIST),
            Some(Fault::ForgetsRenames) => return Ok(()),
            _ => fs::rename(real_from, real_to)?,
        }
        state.nodes.renamed(&from, &to);
        Ok(())
    }

    /// Names and kinds; the first are the folder itself and the one above.
    fn names(&self, node: INodeNo) -> Result<Vec<(std::ffi::OsString, FileType)>, Errno> {
        let path = self.0.wait().nodes.path(node)?;
        let mut names = vec![(".".into(), FileType::Directory), ("..".into(), FileType::Directory)];
        for entry in fs::read_dir(self.real(&path))? {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).ok_or(Errno::EIO)?;
            names.push((entry.file_name(), kind));
        }
        names.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(names)
    }

    fn resize(&self, node: INodeNo, size: Option<u64>) -> Result<FileAttr, Errno> {
        let path = match size {
            Some(_) => self.0.change()?.nodes.path(node)?,
            None => self.0.wait().nodes.path(node)?,
        };
        if let Some(size) = size {
            OpenOptions::new().write(true).open(self.real(&path))?.set_len(size)?;
        }
        self.look(&path)
    }
}

fn attributes(metadata: &Metadata, number: u64) -> FileAttr {
    let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(number),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: UNIX_EPOCH,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap_or_default(),
        nlink: 1,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

impl Filesystem for Calls {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.0.wait().nodes.child(parent, name);
        match path.and_then(|path| self.look(&path)) {
            Ok(found) => reply.entry(&UNCACHED, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.resize(node, None) {
            Ok(found) => reply.attr(&UNCACHED, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.resize(node, size) {
            Ok(found) => reply.attr(&UNCACHED, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        match self.make_folder(parent, name, mode) {
            Ok(made) => reply.entry(&UNCACHED, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, |path| fs::remove_file(path)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.remove(parent, name, |path| fs::remove_dir(path)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(self.move_to((parent, name), (new_parent, new_name)), reply);
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(node, flags) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let flags = FopenFlags::FOPEN_DIRECT_IO;
        match self.make_file(parent, name, mode) {
            Ok((made, handle)) => reply.created(&UNCACHED, &made, Generation(0), handle, flags),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = |file: &File| {
            let mut buffer = vec![0; usize::try_from(size).map_err(|_| Errno::EINVAL)?];
            let length = file.read_at(&mut buffer, offset)?;
            buffer.truncate(length);
            Ok::<_, Errno>(buffer)
        };
        let file = self.0.wait().nodes.file(handle);
        match file.and_then(|(file, _)| read(&file)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_file(handle, offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        answer(self.close_file(handle), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.wait().nodes.closed(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.flush_file(handle), reply);
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.flush_names(node), reply);
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.wait().nodes.path(node) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.names(node) {
            Ok(names) => names,
            Err(error) => return reply.error(error),
        };
        for (at, (name, kind)) in (1..).zip(names).skip_while(|(at, _)| *at <= offset) {
            // Not the number by which it is known; nobody asks for that here.
            if reply.add(INodeNo(u64::MAX), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        drop(self.0.wait());
        match nix::sys::statvfs::statvfs(&self.0.backing) {
            Ok(room) => reply.statfs(
                room.blocks(),
                room.blocks_free(),
                room.blocks_available(),
                room.files(),
                room.files_free(),
                BLOCK,
                255,
                u32::try_from(room.fragment_size()).unwrap_or(BLOCK),
            ),
            Err(error) => reply.error(Errno::from_i32(error as i32)),
        }
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}
