//! The tasks of the steer workspace: `cargo xtask <task>`.

mod bench;
mod boot;
mod chaos;
mod demo;
mod dist;
mod docs;
mod fuzz;
mod language;
mod llama;
mod programs;
mod python;
mod run;
mod setup;
mod sim;
mod test;
mod tool;
mod toolchain;
mod vm;

use anyhow::Result;
use clap::Parser;

/// The tasks of the steer workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Set up, then attack a site at work with what anybody can send, and fail if its clients notice.
    Attack {
        /// What to pass on; see `cargo xtask attack -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then measure what the data path costs for each packet.
    Bench {
        /// What to pass on to the benchmark; see `cargo xtask bench -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then install the Debian packages in a system that boots, and restart, kill, upgrade and
    /// remove them under load.
    Boot,
    /// Set up, then kill, hang and cut off backends under load, and print when new flows kept away and what
    /// failed.
    Chaos {
        /// What to pass on; see `cargo xtask chaos -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then count the requests that fail while daemon, program and configuration change.
    Changes,
    /// Set up, then steer real traffic, kill a backend and the daemon, and show what happens.
    Demo {
        /// What serves the backends.
        #[arg(long, value_enum, default_value_t = demo::Engine::Chat)]
        engine: demo::Engine,
    },
    /// Set up, then build the Debian packages of node and beacon into target/debian.
    Dist,
    /// Set up, then write the documentation's reference anew and build the book into target/book.
    Docs,
    /// Set up, then run the daemon over 10, 1,000 and 10,000 beacons, and print what it costs.
    Fleet {
        /// What to pass on; see `cargo xtask fleet -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then feed arbitrary bytes to all that reads what others wrote, and send random packets
    /// through random tables, to compare kernel and host.
    Fuzz {
        /// How many packets; 0 for none.
        #[arg(long, default_value_t = 10_000_000)]
        packets: u64,
        /// Where random numbers begin; what a failed run says.
        #[arg(long)]
        seed: Option<u64>,
        /// How long each reader is fed; 0 for none.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Check doc comments and messages against the language rules of CONTRIBUTING.
    Language,
    /// Build the programs that tests start.
    Programs,
    /// Install what building and testing need; safe to run again.
    Setup,
    /// Set up, then run a simulated fleet under steer and under what others do, side by side.
    Sim {
        /// What to pass on to the simulator; see `cargo xtask sim -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then let faults happen at random under load, and fail if anything is lost without a reason or
    /// grows.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// What to pass on besides; see `cargo xtask soak -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then check formatting, lints, documentation and dependencies, and run the tests.
    Test,
    /// Set up, then boot other kernels in emulated machines, and let traffic through each mode there.
    Vm(vm::Options),
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Attack { arguments } => chaos::run("steer-attack", &arguments),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Boot => boot::run(),
        Task::Changes => programs::changes(),
        Task::Chaos { arguments } => chaos::run("steer-chaos", &arguments),
        Task::Demo { engine } => demo::run(engine),
        Task::Dist => dist::run(),
        Task::Docs => docs::run(),
        Task::Fleet { arguments } => chaos::run("steer-fleet", &arguments),
        Task::Fuzz {
            packets,
            seed,
            seconds,
        } => fuzz::run(packets, seed, seconds),
        Task::Language => language::run(),
        Task::Programs => programs::run(),
        Task::Setup => setup::run(),
        Task::Sim { arguments } => sim::run(&arguments),
        Task::Soak { minutes, arguments } => {
            let minutes = ["--minutes".to_owned(), minutes.to_string()];
            chaos::run("steer-soak", &[&minutes, arguments.as_slice()].concat())
        }
        Task::Test => test::run(),
        Task::Vm(options) => vm::run(&options),
    }
}
