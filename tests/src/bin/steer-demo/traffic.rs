//! Requests of the client, and the live table of them.

use std::{
    net::SocketAddr,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_tests::{
    fleet::{Fleet, HTTP, HTTPS},
    load::{Load, Sample},
    summary::Summary,
};

use crate::interrupt;

/// Concurrent requests of each kind.
const CONCURRENCY: usize = 4;
/// Interval of checks.
const TICK: Duration = Duration::from_millis(50);

/// An action during a load, with its time.
pub(crate) type Event<'a> = (
    Duration,
    &'a str,
    &'a mut dyn FnMut(&mut Fleet) -> Result<()>,
);

/// Puts plain and TLS load on the VIP for some time, runs `events` meanwhile, and returns all
/// requests.
pub(crate) fn run(
    fleet: &mut Fleet,
    names: &[&str],
    duration: Duration,
    events: &mut [Event<'_>],
) -> Result<Vec<Sample>> {
    let (live, samples) = mpsc::channel();
    let start = Instant::now();
    let loads = [(HTTP, false), (HTTPS, true)]
        .map(|(port, tls)| Load {
            tls,
            concurrency: CONCURRENCY,
            duration,
            timeout: Duration::from_secs(2),
            live: Some(live.clone()),
            ..Load::new(SocketAddr::new(fleet.vip(), port))
        })
        .map(|load| load.start_in(&fleet.site.client));
    // The loads hold the other senders; when they end, so does the channel.
    drop(live);
    let mut all: Vec<Sample> = Vec::new();
    let mut shown = 0;
    let mut next_row = start + Duration::from_secs(1);
    let mut waiting = events.iter_mut().peekable();
    loop {
        interrupt::check()?;
        if let Some((_, what, act)) = waiting.next_if(|event| start.elapsed() >= event.0) {
            println!("   -- {what}");
            act(fleet)?;
        }
        match samples.recv_timeout(TICK) {
            Ok(sample) => all.push(sample),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if Instant::now() >= next_row {
            row(start.elapsed(), names, &all[shown..]);
            shown = all.len();
            next_row += Duration::from_secs(1);
        }
    }
    for load in loads {
        load?.finish()?;
    }
    Ok(all)
}

/// Prints the head of the table.
pub(crate) fn head(names: &[&str]) {
    print!("   {:>5}", "time");
    for name in names {
        print!("{name:>9}");
    }
    println!("{:>9}   first byte p50/p95   last byte p50/p95", "failed");
}

fn row(time: Duration, names: &[&str], samples: &[Sample]) {
    let summary = Summary::from_samples(samples);
    print!("   {:>4.0}s", time.as_secs_f64());
    for name in names {
        print!("{:>9}", summary.answers.get(*name).unwrap_or(&0));
    }
    let times = |times: [Duration; 2]| {
        let [median, p95] = times.map(|time| time.as_secs_f64() * 1000.0);
        format!("{median:.0} / {p95:.0} ms")
    };
    println!(
        "{:>9}{:>21}{:>20}",
        summary.failures,
        times(summary.first),
        times(summary.total)
    );
}
