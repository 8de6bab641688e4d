//! What the verifier of this kernel says of the programs.

use anyhow::Result;
use aya::{EbpfLoader, programs::Xdp};
use serde::Serialize;
use steer_user::dataplane::{decap_object, object, trace_object};

/// A program, as the kernel loaded it.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier went through; a million is the most.
    pub verified: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// Loads each program, and lets it go again.
///
/// # Errors
/// If an object or its maps cannot be loaded at all.
pub fn load_all() -> Result<Vec<(String, Result<Loaded>)>> {
    let mut all = Vec::new();
    for (object, of) in [
        (object(), ""),
        (trace_object(), "tracing "),
        (decap_object(), ""),
    ] {
        let mut ebpf = EbpfLoader::new().load(object)?;
        for (name, program) in ebpf.programs_mut() {
            let loaded = program
                .try_into()
                .map_err(anyhow::Error::from)
                .and_then(|program: &mut Xdp| load(&format!("{of}{name}"), program));
            all.push((format!("{of}{name}"), loaded));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
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
