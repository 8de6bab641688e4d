//! Interfaces of the configuration, as they are attached to.

use serde::{Deserialize, Serialize};

use crate::dataplane::AttachedMode;

/// An interface of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Its index; `None` while there is no such interface.
    pub index: Option<u32>,
    /// Mode in which the program is attached; `None` if it is not.
    pub mode: Option<AttachedMode>,
    /// Reason why it is not.
    pub failure: Option<String>,
}
