//! Our storage in the form that rustic_core asks for.
//!
//! Its own local backend makes missing folders on every write, writes under one fixed
//! temporary name, never flushes a folder, and passes over what it cannot list.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use rustic_core::{
    ALL_FILE_TYPES, BytesList, ErrorKind, FileType, Id, ReadBackend, RepositoryBackends,
    RusticError, RusticResult, WriteBackend,
};

use crate::repository::storage::{FOLDERS, Range, Storage, write_proved};

/// The engine's view of a storage.
pub(super) fn backends(storage: &Arc<dyn Storage>) -> RepositoryBackends {
    RepositoryBackends::new(Arc::new(Backend(Arc::clone(storage))), None)
}

struct Backend(Arc<dyn Storage>);

fn path(kind: FileType, id: &Id) -> String {
    let digits = id.to_hex();
    match kind {
        FileType::Config => "config".to_owned(),
        FileType::Pack => {
            format!("data/{}/{}", digits.get(..2).unwrap_or_default(), digits.as_str())
        }
        _ => format!("{}/{}", kind.dirname(), digits.as_str()),
    }
}

fn failed(path: &str) -> impl Fn(io::Error) -> Box<RusticError> + '_ {
    move |error| {
        RusticError::with_source(ErrorKind::Backend, "`{path}` cannot be used", error)
            .attach_context("path", path)
    }
}

impl Backend {
    fn list_folder(&self, folder: &str, into: &mut Vec<(Id, u32)>) -> RusticResult<()> {
        for listed in self.0.list(folder).map_err(failed(folder))? {
            // Whatever has no hash for a name is no file of the format.
            if listed.name.len() == 64
                && let Ok(id) = listed.name.parse()
            {
                into.push((id, u32::try_from(listed.bytes).unwrap_or(u32::MAX)));
            }
        }
        Ok(())
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.0.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let mut all = Vec::new();
        match kind {
            FileType::Config => match self.0.bytes_of("config") {
                Ok(bytes) => all.push((Id::default(), u32::try_from(bytes).unwrap_or(u32::MAX))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("config")(error)),
            },
            FileType::Pack => {
                for number in 0..=u8::MAX {
                    let folder = format!("data/{number:02x}");
                    match self.0.list(&folder) {
                        // Restic makes them when they are needed.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        _ => self.list_folder(&folder, &mut all)?,
                    }
                }
            }
            _ => self.list_folder(kind.dirname(), &mut all)?,
        }
        Ok(all)
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let path = path(kind, id);
        self.0.read(&path).map_err(failed(&path))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let path = path(kind, id);
        let range = Range { offset: offset.into(), length: length as usize };
        self.0.read_range(&path, range).map_err(failed(&path))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        path(kind, id)
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        for folder in FOLDERS {
            self.0.make_folder(folder).map_err(failed(folder))?;
        }
        for number in 0..=u8::MAX {
            let folder = format!("data/{number:02x}");
            self.0.make_folder(&folder).map_err(failed(&folder))?;
        }
        debug_assert!(ALL_FILE_TYPES.iter().all(|kind| FOLDERS.contains(&kind.dirname())));
        Ok(())
    }

    fn write_bytes(
        &self,
        kind: FileType,
        id: &Id,
        _cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        let path = path(kind, id);
        let content = match content.slice() {
            [one] => one.clone(),
            parts => parts.concat().into(),
        };
        let written = match kind {
            // It makes everything else visible; nobody would read it again soon.
            FileType::Snapshot => write_proved(self.0.as_ref(), &path, content),
            _ => self.0.write(&path, content),
        };
        written.map_err(failed(&path))
    }

    fn remove(&self, kind: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let path = path(kind, id);
        self.0.remove(&path).map_err(failed(&path))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.0.location()).finish()
    }
}
