//! Files as the system gives them: changed while they are read, or no files at all.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use insta::assert_snapshot;
use oxwarp::gguf::{FileError, Gguf, MappedFile};
use tempfile::TempDir;

use super::mutate::*;

fn small_file() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = (folder.path().join("model.gguf"), Raw::small().bytes());
    fs::write(&path, &bytes).unwrap();
    (folder, path, bytes)
}

/// A message and its causes, without the folder's name, which is another one at each run.
fn message(error: FileError, folder: &Path) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn d1_a_file_that_shrinks_is_an_error_where_it_is_read() {
    let (folder, path, bytes) = small_file();
    let file = MappedFile::open(&path).unwrap();
    let end = Gguf::parse(file.bytes()).unwrap().tensor("b").unwrap().range.end;
    let mut tensor = vec![0; 18];
    file.read_at(end as u64 - 18, &mut tensor).unwrap();
    assert_eq!(tensor, bytes[end - 18..]);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(end as u64 - 10).unwrap();
    let error = file.read_at(end as u64 - 18, &mut tensor).unwrap_err();
    assert_snapshot!(message(error, folder.path()), @r"model.gguf: the file ends at byte 360, 10 bytes before the end of a read at 352: it has been shortened since it was opened");
    assert_snapshot!(message(file.still_unchanged().unwrap_err(), folder.path()), @r"model.gguf: the file was changed while it was in use: the size was 370 bytes, is 360 bytes");
}

#[test]
fn d1_a_copied_file_does_not_care_what_happens_to_the_original() {
    let (_folder, path, bytes) = small_file();
    let file = MappedFile::read(&path).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    assert_eq!(file.bytes(), bytes);
    assert!(matches!(file.still_unchanged(), Err(FileError::Changed { what: "the size", .. })));
}

#[test]
fn d2_a_file_that_is_replaced_or_rewritten() {
    let (folder, path, bytes) = small_file();
    let file = MappedFile::open(&path).unwrap();
    file.still_unchanged().unwrap();
    // Replaced: the map still shows the old file.
    let other = folder.path().join("other");
    fs::write(&other, vec![0; bytes.len()]).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(file.bytes(), bytes);
    let inode = file.still_unchanged().unwrap_err();
    assert!(matches!(&inode, FileError::Changed { what: "device and inode", .. }), "{inode}");
    // Rewritten in place, with the same size.
    let file = MappedFile::open(&path).unwrap();
    let later = SystemTime::UNIX_EPOCH + Duration::new(4_000_000_000, 5);
    OpenOptions::new().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let time = file.still_unchanged().unwrap_err();
    assert!(time.to_string().ends_with("is 4000000000000000005 ns"), "{time}");
    // Gone.
    fs::remove_file(&path).unwrap();
    assert_snapshot!(message(file.still_unchanged().unwrap_err(), folder.path()), @r"model.gguf: cannot look at the file: No such file or directory (os error 2)");
}

#[test]
fn d3_what_is_no_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    let _listener = UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("link")).unwrap();
    fs::write(path("secret"), "GGUF").unwrap();
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut paths = vec![
        path("nothing"),
        path("."),
        path("fifo"),
        path("socket"),
        path("loop"),
        path("link"),
        PathBuf::from("/dev/null"),
    ];
    // Root may read everything.
    if fs::read(path("secret")).is_err() {
        let error = MappedFile::open(path("secret")).unwrap_err();
        assert!(message(error, folder.path()).contains("Permission denied"));
    }
    let (sender, receiver) = mpsc::channel();
    let folder_path = folder.path().to_owned();
    std::thread::spawn(move || {
        for path in paths.drain(..) {
            let errors = [MappedFile::open(&path).unwrap_err(), MappedFile::read(&path).unwrap_err()];
            let [opened, read] = errors.map(|error| message(error, &folder_path));
            assert_eq!(opened, read);
            sender.send(opened).unwrap();
        }
    });
    let mut lines = Vec::new();
    while let Ok(line) = receiver.recv_timeout(Duration::from_secs(20)) {
        lines.push(line);
    }
    assert_eq!(lines.len(), 7, "the next one hangs or panics after: {lines:?}");
    assert_snapshot!(lines.join("\n"), @r"
    nothing: cannot open: No such file or directory (os error 2)
    .: is a directory, allowed: a regular file
    fifo: is a FIFO, allowed: a regular file
    socket: is a socket, allowed: a regular file
    loop: cannot open: Too many levels of symbolic links (os error 40)
    link: is a character device, allowed: a regular file
    /dev/null: is a character device, allowed: a regular file
    ");
}

/// Files of /proc have no size and content all the same.
#[test]
fn d3_a_file_of_proc() {
    let file = MappedFile::open("/proc/self/status").unwrap();
    assert_snapshot!(refusal(file.bytes()), @r"header, byte 0: the file is empty; a GGUF file begins with the bytes `GGUF`");
}

#[test]
fn d4_the_faults_of_reads() {
    let (folder, path, bytes) = small_file();
    let file = MappedFile::open(&path).unwrap();
    let mut buffer = [0; 16];
    let error = file.read_at(bytes.len() as u64 - 3, &mut buffer).unwrap_err();
    assert_snapshot!(message(error, folder.path()), @r"model.gguf: the file ends at byte 370, 13 bytes before the end of a read at 367: it has been shortened since it was opened");
    // The system's own refusal: an offset that it cannot hold.
    let error = file.read_at(u64::MAX, &mut buffer).unwrap_err();
    assert!(matches!(error, FileError::Read { at: u64::MAX, .. }), "{error}");
}

#[test]
fn d5_a_partial_download() {
    let (folder, path, bytes) = small_file();
    let partial = folder.path().join("model.gguf.part");
    let data_begin = Gguf::parse(&bytes).unwrap().data_begin();
    for n_bytes in data_begin..bytes.len() {
        fs::write(&partial, &bytes[..n_bytes]).unwrap();
        let file = MappedFile::open(&partial).unwrap();
        assert!(refusal(file.bytes()).contains("a download is incomplete"), "{n_bytes} bytes");
    }
    fs::copy(&path, &partial).unwrap();
    assert!(Gguf::parse(MappedFile::open(&partial).unwrap().bytes()).is_ok());
}

/// A terabyte that takes no space on the disk: the claims in its header fit the file's size, and still nothing is
/// allocated by them.
#[test]
fn d6_a_sparse_terabyte() {
    let (_folder, path, _) = small_file();
    let raw = Raw { n_entries: Some(1 << 32), n_tensors: Some(1 << 32), ..Raw::empty() };
    fs::write(&path, raw.bytes()).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let file = MappedFile::open(&path).unwrap();
    assert_snapshot!(refusal(file.bytes()), @r"header, byte 8: 4294967296 tensors claimed, allowed: at most 4294967294 (1099511627752 bytes are left)");
    let raw = Raw { n_entries: Some(4_000_000_000), ..raw };
    let mut head = raw.bytes();
    head[8..16].copy_from_slice(&0u64.to_le_bytes());
    fs::write(&path, head).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let file = MappedFile::open(&path).unwrap();
    assert_snapshot!(refusal(file.bytes()), @"metadata entry 0, byte 24: a key of 0 bytes, allowed: 1 to 65535");
}
