//! A model file as bytes: mapped, or copied into memory.
//!
//! **What a map protects from, and what not.**  The map is private and read-only, so nothing here can change the file.
//! Another process can: if it *shortens* the file, the next touch of a page past the new end kills the reader with SIGBUS,
//! which no safe Rust can turn into an error; if it *rewrites* the file in place, the reader sees new bytes.  There are
//! three ways to live with that:
//!
//! - [`MappedFile::open`] maps.  Right for a command at a terminal, and for the CPU back end, which computes from the map:
//!   no copy, pages shared between processes.  Replacing a file the usual way (write a new one, rename it over) is
//!   harmless: the map keeps the old file.
//! - [`MappedFile::read`] copies the whole file into memory that belongs to this process.  Nothing that happens to the file
//!   afterwards matters, and a file that shrinks while it is read is an error with an offset.  Right for a server.
//! - [`MappedFile::read_at`] copies a piece through the system call, not through the map: a shrunk file or a bad disk is an
//!   error with an offset, never a signal.  Right for loaders that copy anyway, such as the upload to a GPU.
//!
//! [`MappedFile::still_unchanged`] looks again at size, time and inode; a loader calls it at its end and refuses a model
//! that changed under its hands.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

/// `O_NONBLOCK` of Linux: opening a FIFO does not wait for its other end.
const O_NONBLOCK: i32 = 0o4000;

/// Why a file cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refuses.
    #[error("{}: cannot {action}", path.display())]
    Io {
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        source: io::Error,
    },
    /// A directory, device, FIFO or socket.
    #[error("{}: is a {found}, allowed: a regular file", path.display())]
    Kind { path: PathBuf, found: &'static str },
    /// Larger than this machine's address space.
    #[error("{}: {found} bytes, allowed: at most {max}", path.display())]
    TooLarge { path: PathBuf, found: u64, max: u64 },
    /// The file became shorter.
    #[error("{}: the file ends at byte {at}, {missing} bytes before the end of a read at {offset}: it has been shortened since it was opened", path.display())]
    Short { path: PathBuf, offset: u64, at: u64, missing: u64 },
    /// A read failed in the middle.
    #[error("{}: read error at byte {at}", path.display())]
    Read { path: PathBuf, at: u64, source: io::Error },
    /// The file is not the one that was opened, or has been written to.
    #[error("{}: the file was changed while it was in use: {what} was {before}, is {now}", path.display())]
    Changed { path: PathBuf, what: &'static str, before: String, now: String },
}

/// An open regular file and its bytes.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    file: File,
    identity: Identity,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl MappedFile {
    /// Opens and maps a regular file; the module's text says what a map protects from.  Returns at once whatever `path` is.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be opened or mapped, or is no regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<MappedFile, FileError> {
        let (path, file, identity) = open_regular(path.as_ref())?;
        let bytes = if identity.size == 0 {
            // The system refuses to map nothing.
            Bytes::Owned(Vec::new())
        } else {
            // SAFETY: `Mmap::map` asks that nobody changes the file while it is mapped.  This process never writes to it
            // (it is open for reading only).  Whoever calls `open` accepts the promise for other processes: the module's
            // text says what happens if it is broken, and names the two ways that do not need it.
            let map = unsafe { Mmap::map(&file) };
            Bytes::Mapped(map.map_err(|source| io_error(&path, "map", source))?)
        };
        Ok(MappedFile { path, file, identity, bytes })
    }

    /// Opens a regular file and copies it into memory.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be opened or read, shrinks meanwhile, or is no regular file.
    pub fn read(path: impl AsRef<Path>) -> Result<MappedFile, FileError> {
        let (path, file, identity) = open_regular(path.as_ref())?;
        let mut bytes = Vec::new();
        let out_of_memory = |_| io_error(&path, "hold the file in memory", io::ErrorKind::OutOfMemory.into());
        bytes.try_reserve_exact(identity.size as usize).map_err(out_of_memory)?;
        bytes.resize(identity.size as usize, 0);
        let opened = MappedFile { path, file, identity, bytes: Bytes::Owned(Vec::new()) };
        opened.read_at(0, &mut bytes)?;
        opened.still_unchanged()?;
        Ok(MappedFile { bytes: Bytes::Owned(bytes), ..opened })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Bytes of the file when it was opened.
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Fills `buffer` with the bytes from `offset` on, by a system call.  May be called by several threads at once.
    ///
    /// # Errors
    /// [`FileError::Short`] if the file ends before, [`FileError::Read`] if the system reports a fault.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FileError> {
        fill(offset, buffer, |piece, at| self.file.read_at(piece, at)).map_err(|stop| match stop {
            Stop::End { at, missing } => FileError::Short { path: self.path.clone(), offset, at, missing },
            Stop::Fault { at, source } => FileError::Read { path: self.path.clone(), at, source },
        })
    }

    /// Checks that the path still leads to the file that was opened, with the size and modification time it had.
    ///
    /// # Errors
    /// [`FileError::Changed`] if not, [`FileError::Io`] if the path leads nowhere.
    pub fn still_unchanged(&self) -> Result<(), FileError> {
        let now = std::fs::metadata(&self.path)
            .map_err(|source| io_error(&self.path, "look at the file", source))?;
        let now = Identity::of(&now);
        let before = &self.identity;
        let changed = |what, before: String, now: String| {
            Err(FileError::Changed { path: self.path.clone(), what, before, now })
        };
        if (now.device, now.inode) != (before.device, before.inode) {
            let name = |id: &Identity| format!("{}:{}", id.device, id.inode);
            return changed("device and inode", name(before), name(&now));
        }
        if now.size != before.size {
            return changed("the size", format!("{} bytes", before.size), format!("{} bytes", now.size));
        }
        if now.modified_ns != before.modified_ns {
            let time = |id: &Identity| format!("{} ns", id.modified_ns);
            return changed("the modification time", time(before), time(&now));
        }
        Ok(())
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970.
    modified_ns: i128,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        }
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> FileError {
    FileError::Io { path: path.to_owned(), action, source }
}

fn open_regular(path: &Path) -> Result<(PathBuf, File, Identity), FileError> {
    // Looked at before it is opened, because opening a device can have effects; and again afterwards, because the path may
    // lead elsewhere by then.
    let metadata = std::fs::metadata(path).map_err(|source| io_error(path, "open", source))?;
    refuse_irregular(path, &metadata)?;
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = file.map_err(|source| io_error(path, "open", source))?;
    let metadata = file.metadata().map_err(|source| io_error(path, "look at the file", source))?;
    refuse_irregular(path, &metadata)?;
    let identity = Identity::of(&metadata);
    let max = isize::MAX as u64;
    if identity.size > max {
        return Err(FileError::TooLarge { path: path.to_owned(), found: identity.size, max });
    }
    Ok((path.to_owned(), file, identity))
}

fn refuse_irregular(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let kind = metadata.file_type();
    let found = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "directory",
        () if kind.is_fifo() => "FIFO",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () => "special file",
    };
    Err(FileError::Kind { path: path.to_owned(), found })
}

/// Where and why filling a buffer stopped.
#[derive(Debug)]
enum Stop {
    End { at: u64, missing: u64 },
    Fault { at: u64, source: io::Error },
}

/// Fills `buffer` from `offset` on with as many calls of `read` as that takes: a read may be short or be interrupted.
fn fill(
    offset: u64,
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> Result<(), Stop> {
    let mut n_filled = 0;
    while n_filled < buffer.len() {
        let at = offset.saturating_add(n_filled as u64);
        match read(&mut buffer[n_filled..], at) {
            Ok(0) => return Err(Stop::End { at, missing: (buffer.len() - n_filled) as u64 }),
            Ok(n_read) => n_filled += n_read,
            Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Stop::Fault { at, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `n_bytes` on a network drive with a bad place: at most 3 bytes a read, every other read is interrupted.
    fn moody(n_bytes: u64, bad: u64) -> impl FnMut(&mut [u8], u64) -> io::Result<usize> {
        let mut n_calls = 0;
        move |piece, at| {
            n_calls += 1;
            if n_calls % 2 == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if at >= bad {
                return Err(io::Error::from_raw_os_error(5));
            }
            let n_read = piece.len().min(3).min((n_bytes.min(bad) - at) as usize);
            (0..n_read).for_each(|i| piece[i] = (at as usize + i) as u8);
            Ok(n_read)
        }
    }

    #[test]
    fn d4_short_and_interrupted_reads_are_repeated() {
        let mut buffer = [0; 20];
        fill(7, &mut buffer, moody(100, 100)).unwrap();
        assert_eq!(buffer, std::array::from_fn(|i| i as u8 + 7));
    }

    #[test]
    fn d4_a_read_error_is_reported_with_its_offset() {
        let stop = fill(7, &mut [0; 20], moody(100, 21)).unwrap_err();
        assert!(
            matches!(&stop, Stop::Fault { at: 21, source } if source.raw_os_error() == Some(5)),
            "{stop:?}"
        );
    }

    #[test]
    fn d4_the_end_of_the_file_is_reported_with_its_offset() {
        let stop = fill(7, &mut [0; 20], moody(20, 100)).unwrap_err();
        assert!(matches!(stop, Stop::End { at: 20, missing: 7 }), "{stop:?}");
    }
}
