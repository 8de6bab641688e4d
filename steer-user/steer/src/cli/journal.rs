//! `steer journal`.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Args, Subcommand};
use humantime_serde::re::humantime::format_rfc3339_millis;
use steer_core::{
    control,
    domain::passive,
    generations::Store,
    journal::{self, Event, Record},
};

use super::{
    daemon::DEFAULT_STATE,
    error::{Exit, Failure},
};

#[derive(Debug, Args)]
pub(super) struct Place {
    /// State directory of the daemon.
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_STATE)]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Journal {
    /// Print the changes of steering, oldest first.
    Show {
        #[command(flatten)]
        place: Place,
        /// Print only this many of the newest.
        #[arg(long, value_name = "NUMBER")]
        last: Option<usize>,
        /// Print the records as JSON, one per line.
        #[arg(long)]
        json: bool,
    },
    /// Verify that every line is unmodified, and none is missing.
    Verify {
        #[command(flatten)]
        place: Place,
        /// Hash printed earlier by this command: the journal must still contain that line.
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
    /// Repeat the decisions from the inputs in the journal, and print the differences.
    Replay {
        #[command(flatten)]
        place: Place,
    },
}

impl Journal {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Show { place, last, json } => show(&folder(&place.state)?, last, json),
            Self::Verify { place, head } => verify(&folder(&place.state)?, head.as_deref()),
            Self::Replay { place } => replay(&place.state, &folder(&place.state)?),
        }
    }
}

fn folder(state: &Path) -> Result<PathBuf, Failure> {
    let folder = journal::folder(state);
    match std::fs::read_dir(&folder) {
        Ok(_) => Ok(folder),
        Err(error) => {
            let text = format!(
                "{}: {error}; name the daemon's state directory with --state",
                folder.display()
            );
            Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)))
        }
    }
}

fn show(folder: &Path, last: Option<usize>, json: bool) -> Result<(), Failure> {
    let mut records = Vec::new();
    for record in journal::records(folder)? {
        records.push(record?.item);
        if last.is_some_and(|last| records.len() > last.saturating_mul(2).max(1024)) {
            let surplus = records.len() - last.unwrap_or_default();
            records.drain(..surplus);
        }
    }
    let skip = last.map_or(0, |last| records.len().saturating_sub(last));
    for record in &records[skip..] {
        if json {
            println!("{}", serde_json::to_string(record)?);
        } else {
            println!("{}", line(record));
        }
    }
    Ok(())
}

fn line(record: &Record) -> String {
    let at = format_rfc3339_millis(record.at);
    format!("{at} {:>6}  {}", record.seq, words(&record.event))
}

pub(super) fn words(event: &Event) -> String {
    match event {
        Event::Start {
            version,
            node,
            adopted,
            cut,
        } => {
            let adopted = if *adopted { ", reusing maps" } else { "" };
            let cut = match cut {
                0 => String::new(),
                cut => format!("; {cut} bytes of a torn line were truncated"),
            };
            format!("daemon {version} of {node} started{adopted}{cut}")
        }
        Event::Configured {
            why,
            by,
            generation,
            until,
            ..
        } => {
            let generation = generation
                .map_or("a configuration that is not stored".to_owned(), |n| {
                    format!("generation {n}")
                });
            let until = until.map_or(String::new(), |until| {
                format!(", pending until {}", format_rfc3339_millis(until))
            });
            format!("{generation} counts ({why:?}, {by}){until}")
        }
        Event::Confirmed { by, generation } => format!("generation {generation} confirmed ({by})"),
        Event::Drained {
            by,
            backend,
            drained,
            until,
        } => {
            let word = match (drained, until) {
                (false, _) => "takes new flows".to_owned(),
                (true, None) => "drains".to_owned(),
                (true, Some(until)) => format!("drains until {}", format_rfc3339_millis(*until)),
            };
            format!("backend {backend} {word} ({by})")
        }
        Event::Tuned {
            by, name, from, to, ..
        } => format!("{name} set from {from} to {to} ({by})"),
        Event::DrainDeadline { backend } => {
            format!("backend {backend}: the drain's deadline has passed")
        }
        Event::WeightSet {
            by,
            backend,
            weight: Some(weight),
        } => format!("backend {backend} has weight {weight} ({by})"),
        Event::WeightSet { by, backend, .. } => {
            format!("backend {backend} has its capacity as weight ({by})")
        }
        Event::Backend {
            backend,
            probes,
            health,
            ring,
            draining,
            suppressed,
            lossy,
            hot,
            ..
        } => {
            let mut words = Vec::new();
            words.extend(health.map(|(from, to)| format!("health {from:?} -> {to:?}")));
            let number = |ring: Option<usize>| ring.map_or("none".to_owned(), |r| r.to_string());
            words.extend(ring.map(|(from, to)| format!("ring {} -> {to}", number(from))));
            words.extend(draining.map(|draining| format!("draining {draining}")));
            words.extend(suppressed.map(|out| format!("ejected for flapping {out}")));
            words.extend(lossy.map(|lossy| format!("lossy {lossy}")));
            words.extend(hot.map(|hot| format!("hot {hot}")));
            if words.is_empty() {
                words.push("fails for another reason".to_owned());
            }
            let words = words.join(", ");
            let failure = probes.last().and_then(|probe| match &probe.outcome {
                journal::Outcome::Failed(failure) => Some(format!("; {failure}")),
                journal::Outcome::Answered { .. } => None,
            });
            format!("backend {backend}: {words}{}", failure.unwrap_or_default())
        }
        Event::OutlierDetection {
            backend,
            counts,
            verdict,
            ..
        } => {
            let passive::Counts {
                refused,
                unanswered,
                accepted,
                ..
            } = counts;
            format!(
                "backend {backend}: {verdict}: {refused} connections refused, {unanswered} \
                 unanswered, {accepted} accepted"
            )
        }
        Event::OwnConnection {
            backend, verdict, ..
        } => format!("backend {backend}: {verdict}"),
        Event::Verdict {
            backend,
            inputs,
            verdict,
        } => {
            let answered = match inputs.answered {
                Some(ago) => format!("clients were answered {} ms ago", ago.as_millis()),
                None => "no answers to clients seen".to_owned(),
            };
            format!("backend {backend}: {verdict}; {answered}")
        }
        Event::Panic {
            service,
            panic_mode,
            healthy,
            total,
        } => {
            let word = if *panic_mode {
                "panic mode begins"
            } else {
                "panic mode ends"
            };
            format!("service {service}: {healthy} of {total} healthy, {word}")
        }
        Event::Balanced {
            service,
            cause,
            members,
            moved,
            ..
        } => {
            let reported = members.iter().filter(|m| m.load.is_some()).count();
            format!(
                "service {service}: weights changed ({cause:?}), {:.1} % of the table moves, \
                 {reported} of {} backends report their use",
                f64::from(*moved) / 10_000.0,
                members.len()
            )
        }
        Event::NextHop { backend, interface } => match interface {
            Some(interface) => format!("backend {backend}: reached by interface {interface}"),
            None => format!("backend {backend}: no next hop"),
        },
        Event::Router {
            router,
            interface,
            gateway,
            to,
            ..
        } => {
            let gateway =
                gateway.map_or_else(String::new, |gateway| format!(", by gateway {gateway}"));
            match to {
                Some(to) => format!(
                    "router {router} on interface {interface}: answers go to {} on interface {}{gateway}",
                    to.mac, to.interface
                ),
                None => format!("router {router} on interface {interface} is forgotten"),
            }
        }
        Event::Shedding {
            pool,
            hot,
            members,
            below: 0,
        } => format!("pool {pool}: {hot} of {members} members hot, nothing is shed"),
        Event::Shedding {
            pool,
            hot,
            members,
            below,
        } => format!(
            "pool {pool}: {hot} of {members} members hot, priorities below {below} are shed"
        ),
        Event::Table {
            service,
            why,
            slots,
            changed,
            shares,
            ..
        } => {
            let share = |(name, share): (&String, &f64)| format!("{name} {:.1} %", share * 100.0);
            let mut listed: Vec<String> = shares.iter().take(8).map(share).collect();
            if shares.len() > listed.len() {
                listed.push(format!("{} more", shares.len() - listed.len()));
            }
            let listed = listed.join(", ");
            format!("service {service}: {changed} of {slots} slots changed ({why}): {listed}")
        }
        Event::MemberReleased { member } => format!("member {member} is gone"),
        Event::Gap { lost } => {
            format!("{lost} events are missing, because the journal was not writable")
        }
        Event::Stop => "daemon stopped".to_owned(),
    }
}

fn verify(folder: &Path, head: Option<&str>) -> Result<(), Failure> {
    let verified = journal::verify(folder, head)?;
    for damage in &verified.damage {
        println!("{damage}");
    }
    if let Some(torn) = &verified.torn {
        println!("{torn}");
    }
    if !verified.damage.is_empty() {
        let text = format!("{} lines are modified or missing", verified.damage.len());
        return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)));
    }
    if let (Some(head), false) = (head, verified.found) {
        let text = format!(
            "no line has the hash {head}: the journal was rewritten or cut, or the line has been \
             rotated away"
        );
        return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)));
    }
    match (verified.seq, verified.head) {
        (Some((first, last)), Some(head)) => {
            println!("lines {first} to {last} are unmodified; head {head}");
        }
        _ => println!("there are no lines"),
    }
    Ok(())
}

fn replay(state: &Path, folder: &Path) -> Result<(), Failure> {
    let store = Store::open(state, usize::MAX)?;
    let document = |number| match store.generation(number) {
        Ok(generation) => Ok(generation.document),
        Err(error) => Err(error.to_string()),
    };
    let replayed = control::replay(journal::records(folder)?, document, Instant::now())?;
    for without in &replayed.without {
        println!("{without}; the rest was checked without it");
    }
    for disagreement in &replayed.disagreements {
        println!("{disagreement}");
    }
    println!(
        "replayed: {} changes of backends, {} verdicts, {} steps of weights, {} tables; {} tables \
         lack inputs; {} disagree",
        replayed.backends,
        replayed.verdicts,
        replayed.steps,
        replayed.tables,
        replayed.unchecked,
        replayed.disagreements.len()
    );
    if replayed.disagreements.is_empty() {
        Ok(())
    } else {
        let text = "the inputs in the journal lead to other decisions than those recorded";
        Err(Failure::new(Exit::Failed, anyhow::anyhow!(text)))
    }
}
