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
  2  the command line is invalid
  3  the configuration is invalid
  4  the daemon does not answer
  5  the daemon refused the request";

/// Steer inference traffic to the nearest healthy backend.
#[derive(Debug, Parser)]
#[command(name = "steer", version, after_help = EXIT_CODES)]
struct Cli {
    /// Format of logs: text or json. The variable STEER_LOG sets the filter.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(daemon::Run),
    /// Detach the program from all interfaces, and remove its pins.
    Detach(daemon::Detach),
    /// Show services, members and backends.
    Status(ask::Status),
    Top(top::Top),
    Watch(watch::Watch),
    /// Explain the decision for a flow or a packet.
    Explain(explain::Explain),
    /// Show the last decisions about a backend, with their inputs.
    Why(ask::Why),
    /// Show live packets with their outcome and its reason.
    Trace(trace::Trace),
    /// Show services.
    #[command(subcommand)]
    Service(operator::Service),
    /// Show and drain backends.
    #[command(subcommand)]
    Backend(operator::Backend),
    Weight(operator::Weight),
    /// Show settings, and override them in the running daemon.
    #[command(subcommand)]
    Tune(tune::Tune),
    /// Check, compare, apply and roll back configurations.
    #[command(subcommand)]
    Config(config::Config),
    /// Show, verify and replay the journal of changes.
    #[command(subcommand)]
    Journal(journal::Journal),
    Doctor(doctor::Doctor),
    /// Make and read connection ids of QUIC servers behind this node.
    #[command(subcommand)]
    Cid(cid::Cid),
    /// Strip outer headers, on a backend without a tunnel device.
    Decap(decap::Decap),
    /// Print a completion script for a shell.
    Completions(shell::Completions),
    /// Write manual pages, one per command.
    Man(shell::Man),
    /// Write the reference of the documentation as Markdown.
    #[command(hide = true)]
    Reference(reference::Reference),
    /// Issue certificates for nodes and beacons.
    #[command(subcommand)]
    Pki(pki::Pki),
}

/// Runs the command of this process, and returns its exit code.
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
                // Each line starts with file and line, where editors look for them.
                Exit::Config => eprintln!("{failure}"),
                _ => eprintln!("steer: {failure}"),
            }
            failure.exit().into()
        }
    }
}
