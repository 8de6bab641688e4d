//! A link with a real delay: two TAP devices and a thread that holds each frame for a while.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::veth::End;

/// Maximum number of frames in flight, in both directions together; further ones are dropped.
const CAPACITY: usize = 16_384;
/// Largest frame of a TAP device without offloads.
const FRAME: usize = 9_216;

/// A running delay line, whose devices are removed when it is dropped.
#[derive(Debug)]
pub struct DelayLine {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
    loss: Arc<AtomicU32>,
}

impl DelayLine {
    /// Joins two namespaces by a line with a `delay` in each direction.
    pub fn between(a: End<'_>, b: End<'_>, delay: Duration) -> Result<Self> {
        let taps = [
            a.namespace.enter(|| tap(a.name))??,
            b.namespace.enter(|| tap(b.name))??,
        ];
        for (end, other) in [(a, b), (b, a)] {
            end.configure()?;
            end.resolve(&other)?;
        }
        let (stop, stopped) = UnixStream::pair()?;
        let dropped = Arc::new(AtomicU64::new(0));
        let loss = Arc::new(AtomicU32::new(0));
        let relay = Relay {
            loss: loss.clone(),
            taps,
            stopped,
            delay,
            queue: VecDeque::new(),
            dropped: dropped.clone(),
        };
        let thread = thread::Builder::new().name("delay-line".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = relay.run() {
                eprintln!("delay line: {error:#}");
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            dropped,
            loss,
        })
    }

    /// Sets the percentage of frames lost at random in each direction from now on: 100 makes a
    /// black hole.
    pub fn lose(&self, percent: u32) {
        self.loss.store(percent, Ordering::Relaxed);
    }

    /// Returns the number of frames lost because too many were in flight or the far device was
    /// full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Creates a TAP device in the calling thread's namespace.
fn tap(name: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK);
    let file = options
        .open("/dev/net/tun")
        .context("open the TUN/TAP device")?;
    ensure!(
        name.len() < libc::IFNAMSIZ,
        "interface name {name} is too long"
    );
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open and the request is a complete ifreq that outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(
        result == 0,
        "make TAP device {name}: {}",
        io::Error::last_os_error()
    );
    Ok(file)
}

struct Frame {
    due: Instant,
    to: usize,
    data: Box<[u8]>,
}

struct Relay {
    taps: [File; 2],
    stopped: UnixStream,
    delay: Duration,
    queue: VecDeque<Frame>,
    dropped: Arc<AtomicU64>,
    loss: Arc<AtomicU32>,
}

impl Relay {
    fn run(mut self) -> Result<()> {
        let mut buffer = [0; FRAME];
        let fds = [&self.taps[0], &self.taps[1]].map(AsRawFd::as_raw_fd);
        loop {
            let next = self.queue.front().map(|frame| frame.due);
            let ready = wait([fds[0], fds[1], self.stopped.as_raw_fd()], next)?;
            if ready[2] {
                return Ok(());
            }
            for from in (0..2).filter(|&from| ready[from]) {
                self.take(from, &mut buffer);
            }
            self.deliver();
        }
    }

    /// Queues the frames that wait on a device, a bounded number at a time.
    fn take(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..64 {
            let Ok(length) = (&self.taps[from]).read(buffer) else {
                return;
            };
            let loss = self.loss.load(Ordering::Relaxed);
            if loss > 0 && rand::random_range(0..100) < loss {
                continue;
            }
            if self.queue.len() < CAPACITY {
                let due = Instant::now() + self.delay;
                self.queue.push_back(Frame {
                    due,
                    to: 1 - from,
                    data: buffer[..length].into(),
                });
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(frame) = self.queue.pop_front_if(|frame| frame.due <= now) {
            if (&self.taps[frame.to]).write(&frame.data).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits until a descriptor is ready or a time is reached, and returns which ones are ready.
fn wait(fds: [RawFd; 3], until: Option<Instant>) -> Result<[bool; 3]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the array has the length given, and the timeout is null or outlives the call.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), 3, timeout, ptr::null()) };
    let error = io::Error::last_os_error();
    if result < 0 {
        ensure!(error.kind() == io::ErrorKind::Interrupted, "ppoll: {error}");
        return Ok([false; 3]);
    }
    Ok(polled.map(|fd| fd.revents != 0))
}
