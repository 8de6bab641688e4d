//! Attacks on a site under load, in network namespaces; run it by `cargo xtask attack`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use steer_tests::attack::{Attack, Outcome, all, run};

/// Attack a site that steers traffic, and count the effects on clients. Fails if a stream breaks, a
/// backend loses traffic, bytes reach an attacker, or more than one request in a thousand fails.
#[derive(Parser)]
struct Options {
    /// Duration of each attack in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run only the attack with this name, or all whose names contain it.
    #[arg(long, default_value = "")]
    only: String,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
    /// Print the attacks and exit.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match attack(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn attack(options: &Options) -> Result<()> {
    let mut attacks = all();
    let exact = attacks.iter().any(|attack| attack.name == options.only);
    attacks.retain(|attack| match exact {
        true => attack.name == options.only,
        false => attack.name.contains(&options.only),
    });
    if attacks.is_empty() {
        bail!(
            "no attack has {:?} in its name; --list prints them",
            options.only
        );
    }
    if options.list {
        attacks
            .iter()
            .for_each(|a| println!("{:<14} {}", a.name, a.about));
        return Ok(());
    }
    let length = Duration::from_secs(options.seconds);
    let mut outcomes = Vec::new();
    for attack in &attacks {
        let outcome = run(attack, length, options.seed)?;
        if !options.json {
            print(attack, &outcome);
        }
        outcomes.push(outcome);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    }
    let failed: Vec<_> = outcomes.iter().filter(|o| !o.faults().is_empty()).collect();
    if !failed.is_empty() {
        let names: Vec<_> = failed.iter().map(|outcome| outcome.attack).collect();
        bail!(
            "{} of {} attacks hurt: {}",
            names.len(),
            outcomes.len(),
            names.join(", ")
        );
    }
    Ok(())
}

fn print(attack: &Attack, outcome: &Outcome) {
    let faults = outcome.faults();
    let verdict = if faults.is_empty() { "ok" } else { "HURT" };
    println!("{verdict:<5} {}: {}", attack.name, attack.about);
    println!(
        "      {} packets; streams broken {} of {}; requests failed {} of {}; backends kept from new \
         flows {}; bytes diverted {}",
        outcome.packets,
        outcome.broken.len(),
        outcome.streams,
        outcome.failed,
        outcome.requests,
        outcome.ejected.len(),
        outcome.diverted,
    );
    let shown = outcome.broken.iter().take(3).chain(&outcome.ejected);
    shown.for_each(|line| println!("      - {line}"));
    for (reason, times) in outcome.reasons.iter().take(5) {
        println!("      - {times} x {reason}");
    }
}
