//! A pseudo-terminal with `bitnet` in it, and somebody who types and looks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Long enough for a machine that is busy with other tests; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Terminal {
    keyboard: File,
    output: Receiver<Vec<u8>>,
    /// What came and was not looked at yet.
    unseen: String,
    /// All that came.
    pub(crate) seen: String,
    child: Child,
}

impl Terminal {
    /// Starts `bitnet` as the only program of a new terminal of 80 columns.
    pub(crate) fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, env: &[(&str, &str)]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs =
            File::from(rustix::fs::open(OsStr::from_bytes(name.to_bytes()), flags, Mode::empty()).unwrap());
        // `setsid --ctty` makes it the terminal that Ctrl-C and a new size are reported to.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_bitnet")])
            .args(args)
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(env.iter().copied())
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs)
            .spawn()
            .expect("setsid, of util-linux, starts");
        let keyboard = File::from(ours);
        let mut screen = keyboard.try_clone().unwrap();
        let (send, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The read fails when the last program has closed its side.
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let terminal = Terminal { keyboard, output, unseen: String::new(), seen: String::new(), child };
        terminal.resize(80);
        terminal
    }

    pub(crate) fn resize(&self, columns: u16) {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size).unwrap();
    }

    pub(crate) fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for `text`, and looks no further than that. Output is taken byte by byte as Latin-1: all that is
    /// waited for is ASCII.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unseen.find(text) {
                self.unseen.drain(..at + text.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                panic!("{text:?} did not come after {:?}; all: {:?}", self.unseen, self.seen)
            };
            let new: String = bytes.into_iter().map(char::from).collect();
            self.unseen += &new;
            self.seen += &new;
        }
    }

    /// Waits for the end; returns the exit code.
    #[track_caller]
    pub(crate) fn end(self) -> Option<i32> {
        self.rest().0
    }

    /// Waits for the end and the last word; returns the exit code and all that came.
    #[track_caller]
    pub(crate) fn rest(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + PATIENCE;
        // The channel closes when the last program has closed its side, and all it wrote was read.
        while let Ok(bytes) = self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.extend(bytes.into_iter().map(char::from));
        }
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), std::mem::take(&mut self.seen));
            }
            assert!(Instant::now() < until, "it did not end; all: {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves nobody behind: closing the keyboard hangs up, this is for the parent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
