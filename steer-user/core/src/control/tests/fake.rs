//! The data path of the loop's tests.

pub(super) use crate::dataplane::FakeDataplane as Fake;
