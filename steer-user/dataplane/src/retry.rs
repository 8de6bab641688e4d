//! Retries of system calls that fail temporarily.

use std::{thread, time::Duration};

use aya::{maps::MapError, programs::ProgramError};

/// Pauses between attempts in milliseconds: an eighth of a second in total, which the loop can
/// spare.
const PAUSES: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Updates a map without preallocated entries. The kernel takes their memory from a small cache,
/// without waiting for pages, and refills it later (kernel/bpf/memalloc.c, mm/percpu.c), so a busy
/// machine may return ENOMEM although memory is plentiful.
///
/// # Errors
///
/// Returns the error of the last attempt.
pub(super) fn update<T>(update: impl FnMut() -> Result<T, MapError>) -> Result<T, MapError> {
    again(update, |error| match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOMEM),
        _ => false,
    })
}

/// Loads a program; the verifier returns EAGAIN if a signal arrives.
///
/// # Errors
///
/// Returns the error of the last attempt.
pub(super) fn load(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    again(load, |error| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EAGAIN),
        _ => false,
    })
}

fn again<T, E>(
    mut call: impl FnMut() -> Result<T, E>,
    passes: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for pause in PAUSES {
        match call() {
            Err(error) if passes(&error) => thread::sleep(Duration::from_millis(pause)),
            result => return result,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

    use std::io;

    use aya::sys::SyscallError;

    use super::*;

    fn refused(code: i32) -> MapError {
        MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(code),
        })
    }

    fn tries(refusals: usize, code: i32) -> (usize, bool) {
        let mut tries = 0;
        let result = update(|| {
            tries += 1;
            if tries <= refusals {
                Err(refused(code))
            } else {
                Ok(())
            }
        });
        (tries, result.is_ok())
    }

    #[test]
    fn memory_that_comes_is_waited_for() {
        assert_eq!(tries(0, libc::ENOMEM), (1, true));
        assert_eq!(tries(3, libc::ENOMEM), (4, true));
    }

    #[test]
    fn memory_that_never_comes_is_an_error() {
        assert_eq!(tries(usize::MAX, libc::ENOMEM), (PAUSES.len() + 1, false));
    }

    #[test]
    fn a_full_map_is_an_error_at_once() {
        assert_eq!(tries(1, libc::E2BIG), (1, false));
    }
}
