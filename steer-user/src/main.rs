//! The one binary of steer: daemon, beacon and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    steer_user::cli::main()
}
