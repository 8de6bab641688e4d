//! The command line.

mod ask;
mod cid;
mod config;
mod daemon;
mod decap;
mod doctor;
#[cfg(test)]
mod documented;
mod error;
mod explain;
mod hexdump;
mod journal;
mod open_files;
mod operator;
mod paint;
mod pki;
mod reference;
mod shell;
mod show;
mod table;
mod top;
mod trace;
mod tune;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use steer_telemetry::LogFormat;

pub use self::error::Exit;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  the command line is wrong
  3  the configuration is wrong
  4  the daemon does not answer
  5  the daemon refused";

/// Steers inference traffic to the nearest healthy backend.
#[derive(Debug, Parser)]
#[command(name = "steer", version, after_help = EXIT_CODES)]
struct Cli {
    /// How logs are written: text or json. What is logged is in the variable STEER_LOG.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon.
    Run(daemon::Run),
    /// Takes the program off all interfaces, and all that is pinned with it.
    Detach(daemon::Detach),
    /// Shows services, members and backends.
    Status(ask::Status),
    Top(top::Top),
    Watch(watch::Watch),
    /// Says what happens to a flow, and why.
    Explain(explain::Explain),
    /// Shows the last decisions about a backend, with what led to them.
    Why(ask::Why),
    /// Shows live packets, what becomes of them, and why.
    Trace(trace::Trace),
    /// Shows services.
    #[command(subcommand)]
    Service(operator::Service),
    /// Shows and drains backends.
    #[command(subcommand)]
    Backend(operator::Backend),
    Weight(operator::Weight),
    /// Changes what a running daemon goes by, until it ends.
    #[command(subcommand)]
    Tune(tune::Tune),
    /// Checks, compares and applies configurations, and goes back to earlier ones.
    #[command(subcommand)]
    Config(config::Config),
    /// Shows, verifies and replays the journal of what changed steering.
    #[command(subcommand)]
    Journal(journal::Journal),
    Doctor(doctor::Doctor),
    /// Makes and reads connection ids of QUIC servers behind this node.
    #[command(subcommand)]
    Cid(cid::Cid),
    /// Takes outer headers off, on a backend without a tunnel device.
    Decap(decap::Decap),
    /// Prints what makes a shell complete commands.
    Completions(shell::Completions),
    /// Writes manual pages, one for each command.
    Man(shell::Man),
    /// Writes the reference of the documentation as Markdown.
    #[command(hide = true)]
    Reference(reference::Reference),
    /// Makes the certificates of nodes and beacons.
    #[command(subcommand)]
    Pki(pki::Pki),
}

/// Runs the command that the process was started with, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(command) => command.run(cli.log_format),
        Command::Detach(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Service(command) => command.run(),
        Command::Why(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Backend(command) => command.run(),
        Command::Weight(command) => command.run(),
        Command::Tune(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Watch(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Journal(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Cid(command) => command.run(),
        Command::Decap(command) => command.run(cli.log_format),
        Command::Completions(command) => {
            command.run();
            Ok(())
        }
        Command::Man(command) => command.run(),
        Command::Reference(command) => command.run(),
        Command::Pki(command) => command.run(),
    };
    match done {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            match failure.exit() {
                // Each line begins with file and line, where editors look for them.
                Exit::Config => eprintln!("{failure}"),
                _ => eprintln!("steer: {failure}"),
            }
            failure.exit().into()
        }
    }
}
