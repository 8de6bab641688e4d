//! Child processes that end with the test that started them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

/// Number of lines kept of a child's standard error.
const KEPT: usize = 20;

/// A child in a process group of its own; the group is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    complaints: Complaints,
    reaped: bool,
}

impl Process {
    /// Works like [`Self::spawn`], with its standard error forwarded, and the last lines of it
    /// kept.
    pub fn spawn_followed(command: &mut Command) -> Result<Self> {
        Self::spawn(command.stderr(Stdio::piped()))
    }

    /// Starts a command with its standard output piped to this process.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let stdout = child.stdout.take().map(BufReader::new);
        let complaints = child.stderr.take().map(Complaints::follow);
        Ok(Self {
            child,
            stdout,
            complaints: complaints.unwrap_or_default(),
            reaped: false,
        })
    }

    /// Starts a command with its standard output written to a file.
    pub fn spawn_quiet(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("{}", log.display()))?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self {
            child,
            stdout: None,
            complaints: Complaints::default(),
            reaped: false,
        })
    }

    /// Returns the child's process id, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads the child's standard output up to a line that is `wanted`.
    pub fn wait_for(&mut self, wanted: &str) -> Result<()> {
        loop {
            match self.read_line()? {
                Some(line) if line == wanted => return Ok(()),
                Some(_) => {}
                None => bail!("the process ended without printing {wanted:?}"),
            }
        }
    }

    /// Returns the next line of the child's standard output, or none at its end.
    pub fn read_line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let stdout = self
            .stdout
            .as_mut()
            .context("standard output is not piped")?;
        let length = stdout
            .read_line(&mut line)
            .context("read the process's output")?;
        Ok((length > 0).then(|| line.trim_end().to_owned()))
    }

    /// Sends a signal to the child's group.
    pub fn signal(&self, signal: i32) {
        if let (false, Ok(pid)) = (self.reaped, i32::try_from(self.child.id())) {
            // SAFETY: kill touches no memory; the unreaped child keeps the group's number taken.
            unsafe { libc::kill(-pid, signal) };
        }
    }

    /// Kills the child's group with SIGKILL and waits for the child; does nothing a second time.
    pub fn kill(&mut self) {
        if !self.reaped {
            self.signal(libc::SIGKILL);
            drop(self.child.wait());
            self.reaped = true;
        }
    }

    /// Returns the last lines of standard error of a child that was followed and has ended.
    pub fn last_words(&mut self) -> String {
        self.complaints.end()
    }

    /// Returns whether the child is still running.
    pub fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let state = stat
            .ok()
            .and_then(|stat| stat.rsplit(") ").next()?.chars().next());
        !self.reaped && state.is_some_and(|state| state != 'Z')
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Standard error of a child.
#[derive(Debug, Default)]
struct Complaints {
    last: Arc<Mutex<VecDeque<String>>>,
    follower: Option<JoinHandle<()>>,
}

impl Complaints {
    fn follow(stderr: ChildStderr) -> Self {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last);
        let follower = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Printed to the harness, which shows it if the test fails.
                eprintln!("{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Self {
            last,
            follower: Some(follower),
        }
    }

    /// Returns the last lines, once the child can write no more.
    fn end(&mut self) -> String {
        if let Some(follower) = self.follower.take() {
            drop(follower.join());
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter(last.iter().cloned()).join("\n")
    }
}

/// Kills one process with SIGKILL.
pub(crate) fn kill(pid: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}
