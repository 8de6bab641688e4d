//! The server of llama.cpp as Python's package index has it: a real engine for demonstration and tests.

use std::path::PathBuf;

use anyhow::Result;

use crate::python;

/// A Python with llama.cpp's server, in an environment of its own.
pub(crate) fn python() -> Result<PathBuf> {
    python::environment(
        "llama",
        "xllamacpp, gguf, numpy",
        &["xllamacpp", "gguf", "numpy"],
    )
}
