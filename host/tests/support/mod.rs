//! Ways to run the command under test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A trained model of 260 000 weights, relative to the fixtures.
pub const STORIES: &str = "models/stories260K.Q8_0.gguf";

/// The name of [`chat_model`]'s file.
pub const CHAT_MODEL: &str = "chat.gguf";

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

/// The command, in the folder of the fixtures, with nothing of the caller's environment that could change what it says.
pub fn oxwarp(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oxwarp"));
    let ours = |(name, _): (String, String)| name.starts_with("OXWARP_").then_some(name);
    std::env::vars().filter_map(ours).for_each(|name| {
        command.env_remove(name);
    });
    command
        .args(arguments)
        .current_dir(fixture(""))
        .env("OXWARP_DEVICE", "cpu")
        .env("COLUMNS", "100")
        .env("TERM", "xterm");
    command
}

/// What the command left behind.
#[derive(Debug)]
pub struct Finished {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn run(arguments: &[&str]) -> Finished {
    run_with_input(arguments, "")
}

pub fn run_with_input(arguments: &[&str], input: &str) -> Finished {
    let mut command = oxwarp(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without having read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What Ctrl-C does to a process.
pub fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// The story model with a chat template, which it was not trained for: enough to converse with.
pub fn chat_model() -> tempfile::TempDir {
    let template = "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content.strip() }}\n\
                    {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let key = "tokenizer.chat_template";
    // A comment at its end, so that whatever comes behind stays aligned as it was.
    let entry_bytes = 8 + key.len() + 4 + 8 + template.len() + "{##}".len();
    let template = format!("{template}{{#{}#}}", " ".repeat(entry_bytes.next_multiple_of(32) - entry_bytes));
    let stories = std::fs::read(fixture(STORIES)).unwrap();
    let (header, rest) = stories.split_at(24);
    let n_entries = u64::from_le_bytes(header[16..].try_into().unwrap());
    let mut with_template = header[..16].to_vec();
    with_template.extend((n_entries + 1).to_le_bytes());
    with_template.extend((key.len() as u64).to_le_bytes());
    with_template.extend(key.as_bytes());
    with_template.extend(8u32.to_le_bytes()); // the type of strings
    with_template.extend((template.len() as u64).to_le_bytes());
    with_template.extend(template.as_bytes());
    with_template.extend(rest);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(CHAT_MODEL), with_template).unwrap();
    dir
}

unsafe extern "C" {
    fn openpty(
        master: &mut i32,
        slave: &mut i32,
        name: *mut u8,
        settings: *const u8,
        size: *const WindowSize,
    ) -> i32;
    fn login_tty(terminal: i32) -> i32;
    fn close(file: i32) -> i32;
}

#[repr(C)]
struct WindowSize {
    n_rows: u16,
    n_columns: u16,
    n_pixels: [u16; 2],
}

/// A command at a terminal of its own.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// What has been on the screen and no `wait_for` has passed yet.
    unread: String,
}

impl Terminal {
    pub fn start(mut command: Command) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let size = WindowSize { n_rows: 40, n_columns: 100, n_pixels: [0; 2] };
        // SAFETY: the four pointers are to live variables of the types that openpty(3) asks for, or null where it allows.
        let opened =
            unsafe { openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        let make_terminal = move || {
            // SAFETY: `slave` is open in the child, where nothing but this uses it; login_tty and close are system calls
            // alone, as a child between fork and exec needs.
            let made = unsafe { close(master) == 0 && login_tty(slave) == 0 };
            if made { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: `make_terminal` neither allocates nor locks.
        let child = unsafe { command.pre_exec(make_terminal).spawn().unwrap() };
        // SAFETY: both are open and nobody else owns them; the slave is for the child alone.
        let mut master = unsafe {
            close(slave);
            File::from_raw_fd(master)
        };
        let keyboard = master.try_clone().unwrap();
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Linux ends a terminal's output with an error.
            while let Ok(n_bytes @ 1..) = master.read(&mut bytes) {
                if sender.send(bytes[..n_bytes].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { child, keyboard, screen, unread: String::new() }
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, after everything that was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.unread.find(text) {
                self.unread.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.unread += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} within a minute of {:?}", self.unread),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {text:?}: {:?}", self.unread),
            }
        }
    }

    /// Waits for the end; the exit code.
    pub fn finish(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Terminal {
    /// A test that failed leaves nothing running.
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
