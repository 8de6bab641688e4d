//! Reports: what can be asked of the controller.

pub(crate) mod attachment;
mod build;
pub(crate) mod dry_run;
pub(crate) mod names;
pub(crate) mod readiness;
pub(crate) mod status;
pub(crate) mod view;
