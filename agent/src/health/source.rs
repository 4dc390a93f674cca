//! Where readings come from: files under `/proc` and `/sys`, kept open and read again from
//! their beginning. Opening and closing costs more than the kernel needs to write most of them.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::reading::{Missing, Reading};

/// A machine with 4,096 processors has a `/proc/stat` of about 400 KB, one with 5,000 mounts a
/// `mountinfo` of about 1 MB. What is larger than this is not read in part but not at all.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// `/proc/stat` of a small machine fits at once, so that each file is one or two `pread`s.
const BUFFER_BYTES_MIN: usize = 16 * 1024;

/// Device names seen since the start; containers come and go with a new name each time, so the
/// table is dropped when it passes this.
const NAMES_MAX: usize = 16 * 1024;

/// Where the kernel's file systems are mounted; tests point them at folders of their own.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Normally `/proc`.
    pub proc: PathBuf,
    /// Normally `/sys`.
    pub sys: PathBuf,
    /// Normally `/run`, where daemons show that they are there.
    pub run: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
            run: PathBuf::from("/run"),
        }
    }
}

/// A buffer that many files are read into, one after the other.
#[derive(Debug)]
pub(crate) struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; BUFFER_BYTES_MIN])
    }
}

/// One file that is read again and again.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    label: Arc<str>,
    form: Form,
    file: Option<File>,
}

/// How the kernel hands a file out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// In one piece (`single_open` of `fs/seq_file.c`): a read with room left over got all of it.
    Whole,
    /// Record by record: only a read that gives nothing has reached the end.
    Records,
}

impl Source {
    /// A source at `path` below `root`. It is opened by the first read.
    pub(crate) fn new(root: &Path, path: &str) -> Self {
        let path = root.join(path);
        let label = Arc::from(path.to_string_lossy());
        Self { label, path, form: Form::Records, file: None }
    }

    /// The same for a file that the kernel hands out in one piece, which saves a read each time.
    pub(crate) fn whole(root: &Path, path: &str) -> Self {
        Self { form: Form::Whole, ..Self::new(root, path) }
    }

    /// The whole file as it is now.
    ///
    /// A file that cannot be read is closed, so that the next read opens it anew: the ZFS
    /// module may be loaded after us, and a reloaded one has other files under the same name.
    pub(crate) fn read<'b>(&mut self, buffer: &'b mut Buffer) -> Reading<&'b [u8]> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path).map_err(|e| Missing::from_io(&self.label, &e))?,
        };
        let length = read_whole(&file, self.form, &self.label, &mut buffer.0)?;
        self.file = Some(file);
        Ok(buffer.0.get(..length).unwrap_or_default())
    }
}

fn read_whole(file: &File, form: Form, label: &Arc<str>, buffer: &mut Vec<u8>) -> Reading<usize> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            if length >= FILE_BYTES_MAX {
                let bytes_max = FILE_BYTES_MAX;
                return Err(Missing::TooLarge { what: Arc::clone(label), bytes_max });
            }
            buffer.resize(length * 2, 0);
        }
        let free = buffer.get_mut(length..).unwrap_or_default();
        let room = free.len();
        match file.read_at(free, length as u64) {
            Ok(0) => return Ok(length),
            Ok(count) if form == Form::Whole && count < room => return Ok(length + count),
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Missing::from_io(label, &error)),
        }
    }
}

/// Shares one allocation among all uses of a device name.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The shared form of `name`.
    pub(crate) fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        let name: Arc<str> = Arc::from(name);
        self.0.insert(Arc::clone(&name));
        name
    }
}

/// One small file, read whole and trimmed; for what is read seldom.
pub(crate) fn read_small(path: &Path) -> Reading<String> {
    // Attributes in sysfs are at most a page; the bound holds should `path` be something else.
    let mut bytes = [0; 4096];
    let read = File::open(path).and_then(|file| file.read_at(&mut bytes, 0));
    let length = read.map_err(|e| Missing::from_io(&Arc::from(path.to_string_lossy()), &e))?;
    Ok(super::text::label(bytes.get(..length).unwrap_or_default(), 4096))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn source(content: &[u8]) -> (tempfile::TempDir, Source) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("stat"), content).unwrap();
        let source = Source::new(root.path(), "stat");
        (root, source)
    }

    #[test]
    fn a_file_larger_than_the_buffer_is_read_whole() {
        let content = vec![b'7'; BUFFER_BYTES_MIN * 3 + 5];
        let (root, mut records) = source(&content);
        assert_eq!(records.read(&mut Buffer::default()).unwrap(), content);
        let mut whole = Source::whole(root.path(), "stat");
        assert_eq!(whole.read(&mut Buffer::default()).unwrap(), content);
    }

    #[test]
    fn a_file_past_the_bound_is_missing_and_not_cut() {
        let (_root, mut source) = source(&vec![b'7'; FILE_BYTES_MAX + 1]);
        let missing = source.read(&mut Buffer::default()).unwrap_err();
        assert!(matches!(missing, Missing::TooLarge { .. }), "{missing}");
    }

    #[test]
    fn a_shorter_second_content_leaves_nothing_of_the_first() {
        let (root, mut source) = source(b"a long first line\n");
        let mut buffer = Buffer::default();
        source.read(&mut buffer).unwrap();
        fs::write(root.path().join("stat"), b"short\n").unwrap();
        assert_eq!(source.read(&mut buffer).unwrap(), b"short\n");
    }

    #[test]
    fn a_missing_file_says_its_name_and_is_found_when_it_appears() {
        let root = tempfile::tempdir().unwrap();
        let mut source = Source::new(root.path(), "arcstats");
        let mut buffer = Buffer::default();
        let missing = source.read(&mut buffer).unwrap_err();
        assert!(missing.to_string().ends_with("/arcstats"), "{missing}");
        fs::write(root.path().join("arcstats"), b"1").unwrap();
        assert_eq!(source.read(&mut buffer).unwrap(), b"1");
    }

    #[test]
    fn names_are_shared_and_their_number_is_bounded() {
        let mut names = Names::default();
        let first = names.shared("eth0");
        assert!(Arc::ptr_eq(&first, &names.shared("eth0")));
        for n in 0..NAMES_MAX * 2 {
            names.shared(&format!("veth{n}"));
        }
        assert!(names.0.len() <= NAMES_MAX);
    }
}
