//! Fields that the journal leaves out.

/// Returns whether a value is the default of its type, which reading gives a field that is left out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
