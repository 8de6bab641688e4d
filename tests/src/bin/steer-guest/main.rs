//! The first process of a virtual machine that `cargo xtask vm` boots: loads the programs, sends
//! real traffic through them to the kernel's own tunnel devices, reports the results, and powers
//! off.

mod interop;
mod load;
mod machine;
mod results;

use anyhow::Result;

use crate::results::Results;

fn main() {
    if std::process::id() != 1 {
        eprintln!("guest: this is for a machine of its own; run `cargo xtask vm`");
        std::process::exit(2);
    }
    let outcome = run();
    if let Err(error) = &outcome {
        eprintln!("guest: {error:#}");
    }
    machine::power_off();
}

fn run() -> Result<()> {
    machine::mount_all()?;
    let mut results = Results::open()?;
    machine::load_modules(&mut results)?;
    load::all(&mut results)?;
    if !machine::is_told("load-only") && !results.is_refused() {
        interop::all(&mut results)?;
    }
    results.done()
}
