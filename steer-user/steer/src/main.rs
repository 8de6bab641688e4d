//! The binary of the node: daemon and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    steer::cli::main()
}
