//! What was measured.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// One case at one number of flows.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) program: &'static str,
    pub(crate) case: &'static str,
    pub(crate) flows: u32,
    /// Nanoseconds a packet, the wrapper's part with it.
    pub(crate) raw_ns: f64,
    /// Nanoseconds a packet, less those of a program that does nothing.
    pub(crate) net_ns: f64,
    /// Share of packets to which happened what should.
    pub(crate) ok_share: f64,
}

/// Prints a row for each case and a column for each number of flows.
pub(crate) fn print(results: &[Measured]) {
    let mut flows: Vec<u32> = results.iter().map(|result| result.flows).collect();
    flows.dedup();
    print!("{:<24}", "ns a packet, net of null");
    for count in &flows {
        print!("{count:>12}");
    }
    println!("   done as wanted");
    let mut seen = Vec::new();
    for result in results {
        if seen.contains(&result.case) {
            continue;
        }
        seen.push(result.case);
        print!("{:<24}", format!("{} {}", result.program, result.case));
        let mut ok = 1.0_f64;
        for count in &flows {
            if let Some(found) = find(results, result.case, *count) {
                print!("{:>12.1}", found.net_ns);
                ok = ok.min(found.ok_share);
            }
        }
        println!("{:>14.2} %", ok * 100.0);
    }
}

/// Writes the figures as JSON.
pub(crate) fn write(results: &[Measured], path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_string_pretty(results)?)
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Compares the figures of this run with what the data path has to reach.
///
/// # Errors
/// If it does not reach it, or a program did not do its work.
pub(crate) fn judge(results: &[Measured], flows: &[u32]) -> Result<()> {
    let net = |case: &str, flows: u32| {
        find(results, case, flows)
            .map(|found| found.net_ns)
            .with_context(|| format!("no figure for {case} at {flows} flows"))
    };
    let (Some(few), Some(most)) = (flows.iter().min(), flows.iter().max()) else {
        bail!("no number of flows was measured");
    };
    let open = net("ipip open", *few)?;
    let many = net("ipip open", *most)?;
    let encap = net("bare IPIP encap", *few)?;
    let cost = open / encap;
    let growth = many / open;
    println!("ipip open / bare encap: {cost:.1} (goal 6.0 at most)");
    println!("ipip open at {most} flows / at {few}: {growth:.2} (goal 1.50 at most)");
    // What is compared in words only: noise of a few ns is much of some of these.
    for (case, other, goal) in [
        ("ipip new", "ipip open", 1.4),
        ("ipip6 open", "ipip open", 1.3),
        ("miss", "ipip open", 0.5),
    ] {
        let ratio = net(case, *few)? / net(other, *few)?;
        println!("{case} / {other}: {ratio:.2} (goal {goal:.1} at most)");
    }
    if let Some(bad) = results.iter().find(|result| result.ok_share < 0.9999) {
        bail!(
            "{} at {} flows: only {:.2} % of the packets were done as wanted",
            bad.case,
            bad.flows,
            bad.ok_share * 100.0
        );
    }
    if cost > 6.0 || growth > 1.5 {
        bail!("the data path is slower than it has to be");
    }
    Ok(())
}

fn find<'a>(results: &'a [Measured], case: &str, flows: u32) -> Option<&'a Measured> {
    results
        .iter()
        .find(|result| result.case == case && result.flows == flows)
}
