//! Conversion of keys and values between two layouts, field by field.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use steer_common::abi::Field;

/// A field as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    /// Name, prefixed by the names of the enclosing fields; empty for a type without fields.
    pub(crate) name: String,
    /// Offset in bytes.
    pub(crate) offset: usize,
    /// Its length in bytes.
    pub(crate) size: usize,
}

/// Returns the fields of a type of `size` bytes that begins at `offset`, without padding.
pub(crate) fn columns(fields: &[Field], offset: usize, size: usize) -> Vec<Column> {
    let mut columns = Vec::new();
    if fields.is_empty() {
        let name = String::new();
        columns.push(Column { name, offset, size });
    }
    flatten(fields, "", offset, &mut columns);
    columns
}

fn flatten(fields: &[Field], outer: &str, start: usize, columns: &mut Vec<Column>) {
    for field in fields.iter().filter(|field| !field.name.starts_with('_')) {
        let name = format!("{outer}{}", field.name);
        let offset = start + field.offset;
        if field.inner.is_empty() {
            let size = field.size;
            columns.push(Column { name, offset, size });
        } else {
            flatten(field.inner, &format!("{name}."), offset, columns);
        }
    }
}

/// Conversion of a key or value between two layouts.
#[derive(Debug)]
pub(crate) struct Conversion {
    moves: Vec<Move>,
}

#[derive(Debug)]
struct Move {
    name: String,
    from: usize,
    to: usize,
    /// Sizes in bytes before and after.
    sizes: [usize; 2],
}

impl Conversion {
    /// Creates the conversion between two layouts. New fields are 0, and removed fields are
    /// skipped.
    ///
    /// # Errors
    ///
    /// Returns an error if a field has a different length and is not a number in both.
    pub(crate) fn between(old: &[Column], new: &[Column]) -> Result<Self> {
        let mut moves = Vec::new();
        for to in new {
            let Some(from) = old.iter().find(|from| from.name == to.name) else {
                continue;
            };
            let sizes = [from.size, to.size];
            if sizes[0] != sizes[1] && !sizes.iter().all(|size| matches!(size, 1 | 2 | 4 | 8)) {
                bail!(
                    "the field \"{}\" had {} bytes and has {}",
                    to.name,
                    from.size,
                    to.size
                );
            }
            moves.push(Move {
                name: to.name.clone(),
                from: from.offset,
                to: to.offset,
                sizes,
            });
        }
        Ok(Self { moves })
    }

    /// Fills the new key or value, which must be zeroed.
    ///
    /// # Errors
    ///
    /// Returns an error if a number does not fit into its new field.
    pub(crate) fn apply(&self, old: &[u8], new: &mut [u8]) -> Result<()> {
        for step in &self.moves {
            let [before, after] = step.sizes;
            let from = &old[step.from..][..before];
            let kept = before.min(after);
            // BPF programs are little-endian here, so truncation cuts the trailing bytes.
            if from[kept..].iter().any(|byte| *byte != 0) {
                bail!(
                    "a value of the field \"{}\" does not fit into {after} bytes",
                    step.name
                );
            }
            new[step.to..][..kept].copy_from_slice(&from[..kept]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use steer_common::abi::{Layout as _, UnassuredFlow};

    use super::*;

    fn column(name: &str, offset: usize, size: usize) -> Column {
        Column {
            name: name.to_owned(),
            offset,
            size,
        }
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let old = [column("a", 0, 4), column("gone", 4, 4), column("b", 8, 2)];
        let new = [column("b", 0, 8), column("new", 8, 4), column("a", 12, 4)];
        let conversion = Conversion::between(&old, &new).unwrap();
        let mut made = [0; 16];
        conversion
            .apply(&[1, 2, 3, 4, 9, 9, 9, 9, 7, 8], &mut made)
            .unwrap();
        assert_eq!(made, [7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        let conversion = Conversion::between(&[column("a", 0, 4)], &[column("a", 0, 2)]).unwrap();
        let mut made = [0; 2];
        conversion.apply(&[1, 2, 0, 0], &mut made).unwrap();
        assert_eq!(made, [1, 2]);
        let error = conversion.apply(&[1, 2, 3, 0], &mut made).unwrap_err();
        assert!(error.to_string().contains("\"a\""), "{error}");
        let error =
            Conversion::between(&[column("mac", 0, 6)], &[column("mac", 0, 8)]).unwrap_err();
        assert!(
            error.to_string().contains("had 6 bytes and has 8"),
            "{error}"
        );
    }

    #[test]
    fn fields_within_fields_have_both_names() {
        let found = columns(UnassuredFlow::FIELDS, 4, size_of::<UnassuredFlow>());
        assert!(
            found.contains(&column("key.source_port", 36, 2)),
            "{found:?}"
        );
        assert!(found.contains(&column("opened_ticks", 44, 4)), "{found:?}");
        assert!(
            found
                .iter()
                .all(|column| !column.name.contains('_') || !column.name.starts_with('_'))
        );
        assert_eq!(columns(&[], 4, 16), [column("", 4, 16)]);
    }
}
