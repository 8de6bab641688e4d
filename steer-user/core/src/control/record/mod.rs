//! Records: the journal, and the last decisions about each backend.

pub(crate) mod decisions;
pub(crate) mod recorder;
pub(crate) mod replay;
