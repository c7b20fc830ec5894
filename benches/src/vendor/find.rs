//! Where the vendor's library may be: nobody installs it in one place.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Major versions, the newest first.
const VERSIONS: [u32; 3] = [13, 12, 11];

/// A way to find Python's copy: prints the folders of all installed `nvidia` packages' libraries.
const ASK_PYTHON: &str = "
import glob, os
try:
    import nvidia
    for root in nvidia.__path__:
        print('\\n'.join(glob.glob(os.path.join(root, '*', 'lib'))))
except ImportError:
    pass
";

/// Candidates for the library `stem` (`cublasLt`), in the order in which to try them: where the user says (a file or a
/// folder), the dynamic loader's own search, toolkits, Python's packages.
pub fn candidates(stem: &str, told: Option<&Path>, python: &OsStr) -> Vec<PathBuf> {
    if let Some(told) = told {
        return in_folder(stem, told);
    }
    let bare = VERSIONS.map(|version| PathBuf::from(format!("lib{stem}.so.{version}")));
    let mut found: Vec<PathBuf> = bare.into();
    for folder in toolkit_folders(Path::new("/usr/local")) {
        found.extend(in_folder(stem, &folder));
    }
    for folder in python_folders(python) {
        found.extend(in_folder(stem, &folder));
    }
    found
}

/// The library's files in a folder.
fn in_folder(stem: &str, folder: &Path) -> Vec<PathBuf> {
    let names = VERSIONS.map(|version| folder.join(format!("lib{stem}.so.{version}")));
    names.into_iter().filter(|path| path.exists()).collect()
}

/// Library folders of the toolkits in `root`, those of the newest name first.
fn toolkit_folders(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().filter_map(|entry| entry.ok());
    let is_toolkit =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cuda"));
    let mut roots: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_toolkit).collect();
    roots.sort();
    let folders = ["lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"];
    roots.iter().rev().flat_map(|root| folders.map(|folder| root.join(folder))).collect()
}

/// Library folders of Python's `nvidia` packages; none where there is no Python.
fn python_folders(python: &OsStr) -> Vec<PathBuf> {
    let Ok(output) = Command::new(python).args(["-c", ASK_PYTHON]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

/// The Python to ask: the user's choice, the one that the environment names, the system's.
pub fn python(told: Option<&Path>) -> PathBuf {
    let from_environment = || env::var_os("VIRTUAL_ENV").map(|root| PathBuf::from(root).join("bin/python3"));
    told.map(Path::to_path_buf).or_else(from_environment).unwrap_or_else(|| "python3".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolkits_are_searched_the_newest_first() {
        let root = tempfile::tempdir().expect("a folder");
        for toolkit in ["cuda-12.4", "cuda-13.0", "lib"] {
            let folder = root.path().join(toolkit).join("lib64");
            fs::create_dir_all(&folder).expect("made");
            fs::write(folder.join("libcublasLt.so.12"), "").expect("written");
        }
        let folders = toolkit_folders(root.path());
        let found: Vec<_> = folders.iter().flat_map(|folder| in_folder("cublasLt", folder)).collect();
        let expected =
            ["cuda-13.0", "cuda-12.4"].map(|t| root.path().join(t).join("lib64/libcublasLt.so.12"));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_folder_that_the_user_names_is_the_only_one() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(candidates("cublasLt", Some(root.path()), OsStr::new("python3")).is_empty());
        fs::write(root.path().join("libcublasLt.so.13"), "").expect("written");
        let found = candidates("cublasLt", Some(root.path()), OsStr::new("python3"));
        assert_eq!(found, [root.path().join("libcublasLt.so.13")]);
    }

    #[test]
    fn the_loader_is_asked_first_and_a_missing_python_is_no_error() {
        let found = candidates("cublasLt", None, OsStr::new("no-such-python-here"));
        assert_eq!(found[0], Path::new("libcublasLt.so.13"));
    }
}
