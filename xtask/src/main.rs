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

/// Tasks of the steer workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Set up, then attack a site under load with traffic that anyone can send, and fail if its
    /// clients notice.
    Attack {
        /// Arguments for the program; see `cargo xtask attack -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then measure the cost of the data path per packet.
    Bench {
        /// Arguments for the benchmark; see `cargo xtask bench -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then install the Debian packages in a booted system, and restart, kill, upgrade and
    /// remove them under load.
    Boot,
    /// Set up, then kill, hang and cut off backends under load, and print when new flows avoid them
    /// and which requests fail.
    Chaos {
        /// Arguments for the program; see `cargo xtask chaos -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then count failed requests while daemon, program and configuration change.
    Changes,
    /// Set up, then steer real traffic, kill a backend and the daemon, and show the effects.
    Demo {
        /// Server of the backends.
        #[arg(long, value_enum, default_value_t = demo::Engine::Chat)]
        engine: demo::Engine,
    },
    /// Set up, then build the Debian packages of node and beacon into target/debian.
    Dist,
    /// Set up, then regenerate the reference and build the book into target/book.
    Docs,
    /// Set up, then run the daemon with 10, 1,000 and 10,000 beacons, and print its cost.
    Fleet {
        /// Arguments for the program; see `cargo xtask fleet -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then feed arbitrary bytes to all parsers of foreign input, and compare kernel and
    /// host on random packets and tables.
    Fuzz {
        /// Number of packets; 0 skips them.
        #[arg(long, default_value_t = 10_000_000)]
        packets: u64,
        /// Seed of the random numbers, as printed by a failed run.
        #[arg(long)]
        seed: Option<u64>,
        /// Seconds per parser; 0 skips them.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Check doc comments and messages against the language rules of CONTRIBUTING.
    Language,
    /// Build the programs used by tests.
    Programs,
    /// Install the tools for building and testing; safe to repeat.
    Setup,
    /// Set up, then run a simulated fleet under steer and under other policies, side by side.
    Sim {
        /// Arguments for the simulator; see `cargo xtask sim -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then inject random faults under load, and fail if a request is lost without a reason
    /// or the daemon grows.
    Soak {
        /// Duration in minutes.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
        /// Additional arguments; see `cargo xtask soak -- --help`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, then check formatting, lints, documentation and dependencies, and run the tests.
    Test,
    /// Set up, then boot other kernels in emulated machines, and send traffic through each mode
    /// there.
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
