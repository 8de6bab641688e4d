//! Verification of the programs by this kernel.

use anyhow::Result;
use aya::{EbpfLoader, VerifierLogLevel, programs::Xdp};
use serde::Serialize;
use steer_dataplane::{decap_object, object, trace_object};

/// A program as loaded by the kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    /// Name.
    pub name: String,
    /// Number of instructions processed by the verifier, at most a million.
    pub verified: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// Loads each selected program, unloads it, and reports the result. An error contains the
/// verifier's log at `level`.
///
/// # Errors
///
/// Returns an error if an object or its maps cannot be loaded at all, or `tell` fails.
pub fn load_each(
    is_wanted: impl Fn(&str) -> bool,
    level: VerifierLogLevel,
    mut tell: impl FnMut(&str, Result<Loaded>) -> Result<()>,
) -> Result<()> {
    for (object, of) in [
        (object(), ""),
        (trace_object(), "tracing "),
        (decap_object(), ""),
    ] {
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(level);
        let mut ebpf = loader.load(object)?;
        let mut programs: Vec<_> = ebpf.programs_mut().filter(|p| is_wanted(p.0)).collect();
        programs.sort_by_key(|(name, _)| *name);
        for (name, program) in programs {
            let name = format!("{of}{name}");
            let loaded = program
                .try_into()
                .map_err(anyhow::Error::from)
                .and_then(|program: &mut Xdp| load(&name, program));
            tell(&name, loaded)?;
        }
    }
    Ok(())
}

fn load(name: &str, program: &mut Xdp) -> Result<Loaded> {
    program.load()?;
    let info = program.info()?;
    Ok(Loaded {
        name: name.to_owned(),
        verified: info.verified_instruction_count().unwrap_or(0),
        jited: info.size_jitted(),
    })
}
