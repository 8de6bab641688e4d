//! Child processes that end with the test that started them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A child in a process group of its own; the group is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    reaped: bool,
}

impl Process {
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
        Ok(Self {
            child,
            stdout,
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
            reaped: false,
        })
    }

    /// The child's process id, which is also its group's.
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

    /// The next line of the child's standard output, or none at its end.
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

    /// Whether the child is still running.
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

/// Kills one process with SIGKILL.
pub(crate) fn kill(pid: i32) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}
