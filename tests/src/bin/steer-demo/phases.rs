//! Phases of the demonstration.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_tests::{
    fleet::{Fleet, Plan},
    load::Sample,
    summary::Summary,
};

use crate::{
    report::{Expectation, Figures, Phase},
    traffic,
};

const NAMES: [&str; 3] = ["near", "middle", "far"];
/// One-way delays; each request pays for several round trips.
const DELAYS: [u64; 3] = [0, 8, 25];
const NEAR: usize = 0;

/// Runs the demonstration.
pub(crate) fn run(llama: Option<PathBuf>) -> Result<Figures> {
    println!("demo: a client, a node and three backends, each in a network namespace of its own");
    let mut plan = Plan::new(&NAMES, "nat");
    for ((_, delay), millis) in plan.backends.iter_mut().zip(DELAYS) {
        *delay = Some(Duration::from_micros(500) + Duration::from_millis(millis));
    }
    plan.thinking = [Duration::from_millis(30), Duration::from_millis(10)];
    plan.tokens = 10;
    plan.llama = llama;
    let mut fleet = Fleet::new(plan)?;
    println!("demo: beacons and chat servers run; starting the daemon");
    fleet.start()?;
    println!("{}", fleet.cli(&["status"])?);

    let mut figures = Figures::default();
    steady(&mut fleet, &mut figures)?;
    death(&mut fleet, &mut figures)?;
    homecoming(&mut fleet, &mut figures)?;
    daemon_death(&mut fleet, &mut figures)?;
    Ok(figures)
}

fn phase(figures: &mut Figures, name: &'static str, samples: &[Sample]) -> Summary {
    let summary = Summary::from_samples(samples);
    figures.phases.push(Phase::new(name, &NAMES, &summary));
    summary
}

fn expect(figures: &mut Figures, what: String, held: bool) {
    figures.expectations.push(Expectation { what, held });
}

fn steady(fleet: &mut Fleet, figures: &mut Figures) -> Result<()> {
    println!("demo: streamed requests through the VIP, plain and TLS");
    traffic::head(&NAMES);
    let samples = traffic::run(fleet, &NAMES, Duration::from_secs(5), &mut [])?;
    let summary = phase(figures, "steady", &samples);
    let share = summary.share(NAMES[NEAR]);
    expect(
        figures,
        format!("the nearest backend serves all ({:.1} %)", share * 100.0),
        share > 0.999,
    );
    expect(
        figures,
        format!("no request fails ({} did)", summary.failures),
        summary.failures == 0,
    );
    Ok(())
}

fn death(fleet: &mut Fleet, figures: &mut Figures) -> Result<()> {
    println!("demo: the nearest backend dies");
    traffic::head(&NAMES);
    let mut killed = None;
    let mut kill = |fleet: &mut Fleet| {
        killed = Some(Instant::now());
        fleet.kill_backend(NEAR);
        Ok(())
    };
    let samples = traffic::run(
        fleet,
        &NAMES,
        Duration::from_secs(7),
        &mut [(
            Duration::from_secs(2),
            "SIGKILL to the nearest backend's server and beacon",
            &mut kill,
        )],
    )?;
    let summary = phase(figures, "death of the nearest", &samples);
    let Some(killed) = killed else {
        anyhow::bail!("the backend was not killed");
    };
    let last = summary
        .last_failure
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(killed));
    figures.death_to_last_failure_ms = last.as_secs_f64() * 1000.0;
    figures.failed_by_death = summary.failures;
    expect(
        figures,
        format!(
            "the last request that fails begins within 1 s of the death ({:.0} ms; {} failed)",
            last.as_secs_f64() * 1000.0,
            summary.failures
        ),
        last < Duration::from_secs(1),
    );
    let others = samples
        .iter()
        .filter(|sample| sample.error.is_some())
        .filter(|sample| {
            let backend = sample.backend.as_deref();
            backend.is_some_and(|backend| backend != NAMES[NEAR])
        })
        .count();
    expect(
        figures,
        format!("no request at another backend fails ({others} did)"),
        others == 0,
    );
    let after: Vec<Sample> = samples
        .iter()
        .filter(|sample| sample.start > killed + Duration::from_secs(1))
        .cloned()
        .collect();
    let after = phase(figures, "after the death", &after);
    let share = after.share("middle");
    expect(
        figures,
        format!("then the next nearest serves all ({:.1} %)", share * 100.0),
        share > 0.999 && after.failures == 0,
    );
    Ok(())
}

fn homecoming(fleet: &mut Fleet, figures: &mut Figures) -> Result<()> {
    println!("demo: the nearest backend starts again");
    fleet.start_backend(NEAR)?;
    let took = fleet.wait_for_health(NAMES[NEAR], "up")?;
    println!("   up after {:.0} ms", took.as_secs_f64() * 1000.0);
    traffic::head(&NAMES);
    let samples = traffic::run(fleet, &NAMES, Duration::from_secs(4), &mut [])?;
    let summary = phase(figures, "return of the nearest", &samples);
    let late: Vec<Sample> = samples[samples.len() / 2..].to_vec();
    let share = Summary::from_samples(&late).share(NAMES[NEAR]);
    expect(
        figures,
        format!("new requests go to it again ({:.1} %)", share * 100.0),
        share > 0.999,
    );
    expect(
        figures,
        format!("no request fails by the change ({} did)", summary.failures),
        summary.failures == 0,
    );
    Ok(())
}

fn daemon_death(fleet: &mut Fleet, figures: &mut Figures) -> Result<()> {
    println!("demo: the daemon dies under load");
    traffic::head(&NAMES);
    let mut kill = |fleet: &mut Fleet| {
        fleet.kill_daemon();
        Ok(())
    };
    let mut start = |fleet: &mut Fleet| fleet.start_daemon();
    let samples = traffic::run(
        fleet,
        &NAMES,
        Duration::from_secs(9),
        &mut [
            (
                Duration::from_secs(2),
                "SIGKILL to the daemon; the program stays",
                &mut kill,
            ),
            (
                Duration::from_secs(5),
                "the daemon starts again and takes up its maps",
                &mut start,
            ),
        ],
    )?;
    let summary = phase(figures, "death of the daemon", &samples);
    figures.lost_to_daemon_death = summary.failures;
    expect(
        figures,
        format!(
            "the daemon's death and return lose no request ({} of {} failed)",
            summary.failures, summary.requests
        ),
        summary.failures == 0,
    );
    for name in NAMES {
        fleet.wait_for_health(name, "up")?;
    }
    expect(
        figures,
        "the new daemon sees all backends up".to_owned(),
        true,
    );
    Ok(())
}
