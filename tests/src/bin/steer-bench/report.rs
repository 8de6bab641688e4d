//! Report of a benchmark.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use steer_tests::programs::Loaded;

use crate::goal::{Goal, Outcome};

/// One case at one number of flows.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) program: &'static str,
    pub(crate) case: &'static str,
    pub(crate) flows: u32,
    /// Nanoseconds of CPU per packet including the wrapper: the minimum over all rounds.
    pub(crate) raw_ns: f64,
    /// Nanoseconds per packet, minus those of a program that does nothing.
    pub(crate) net_ns: f64,
    /// Median over all rounds, minus that of a program that does nothing.
    pub(crate) median_ns: f64,
    /// Share of packets with the expected result.
    pub(crate) ok_share: f64,
}

/// A run in serialized form.
#[derive(Serialize)]
pub(crate) struct Report {
    kernel: String,
    programs: Vec<Loaded>,
    figures: Vec<Measured>,
    goals: Vec<Outcome>,
}

impl Report {
    /// Compares figures with goals.
    pub(crate) fn new(
        programs: Vec<Loaded>,
        figures: Vec<Measured>,
        goals: &[Goal],
        flows: &[u32],
    ) -> Self {
        let goals = goals
            .iter()
            .flat_map(|goal| goal.outcomes(&figures, flows))
            .collect();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            programs,
            figures,
            goals,
        }
    }

    /// Prints a row for each case and for each goal, with a column for each number of flows.
    pub(crate) fn print(&self, flows: &[u32]) {
        println!(
            "{:<20}{:>24}{:>24}",
            "program", "instructions verified", "bytes of machine code"
        );
        for program in &self.programs {
            println!(
                "{:<20}{:>24}{:>24}",
                program.name, program.verified, program.jited
            );
        }
        println!();
        print!("{:<28}", "ns of CPU, net of null");
        for count in flows {
            print!("{count:>10}");
        }
        println!("   done as wanted");
        let mut seen = Vec::new();
        for figure in &self.figures {
            if seen.contains(&figure.case) {
                continue;
            }
            seen.push(figure.case);
            print!("{:<28}", figure.case);
            let mut ok = 1.0_f64;
            for count in flows {
                let found = |f: &&Measured| f.case == figure.case && f.flows == *count;
                if let Some(found) = self.figures.iter().find(found) {
                    print!("{:>10.1}", found.net_ns);
                    ok = ok.min(found.ok_share);
                }
            }
            println!("{:>15.2} %", ok * 100.0);
        }
        println!();
        let mut goals: Vec<&str> = self.goals.iter().map(|goal| goal.goal.as_str()).collect();
        goals.dedup();
        for goal in goals {
            let of = || self.goals.iter().filter(|outcome| outcome.goal == goal);
            print!("{goal:<68}");
            for outcome in of() {
                print!("{:>7.2}", outcome.ratio);
            }
            let met = of().all(|outcome| outcome.met);
            println!("   {}", if met { "met" } else { "MISSED" });
        }
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Checks the results.
    ///
    /// # Errors
    ///
    /// Returns an error if a goal is missed, or a program did not do its work.
    pub(crate) fn judge(&self) -> Result<()> {
        if let Some(bad) = self.figures.iter().find(|figure| figure.ok_share < 0.9999) {
            bail!(
                "{} at {} flows: only {:.2} % of the packets were done as wanted",
                bad.case,
                bad.flows,
                bad.ok_share * 100.0
            );
        }
        let missed: Vec<String> = self
            .goals
            .iter()
            .filter(|outcome| !outcome.met)
            .map(|o| format!("{} at {} flows: {:.2}", o.goal, o.flows, o.ratio))
            .collect();
        if !missed.is_empty() {
            bail!("missed: {}", missed.join("; "));
        }
        Ok(())
    }
}
