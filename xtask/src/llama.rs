//! The server of llama.cpp from Python's package index: a real engine for demonstration and tests.

use std::path::PathBuf;

use anyhow::Result;

use crate::python;

/// Returns a Python with llama.cpp's server, in an environment of its own.
pub(crate) fn python() -> Result<PathBuf> {
    python::environment(
        "llama",
        "xllamacpp, gguf, numpy",
        &["xllamacpp", "gguf", "numpy"],
    )
}
