//! Line index: maps an offset in a document to a file and a line without reading it again.

use super::document::Document;

/// Offsets of the files and of the line ends of a document.
pub(super) struct LineIndex {
    /// Offset of each file.
    files: Vec<usize>,
    /// Offsets of newlines over all files, in ascending order.
    newlines: Vec<usize>,
}

impl LineIndex {
    pub(super) fn from_document(document: &Document) -> Self {
        let mut lines = Self {
            files: Vec::new(),
            newlines: Vec::new(),
        };
        for (start, file) in document.placed() {
            lines.files.push(start);
            let bytes = file.text.bytes().enumerate();
            let newlines = bytes.filter(|(_, byte)| *byte == b'\n');
            lines.newlines.extend(newlines.map(|(at, _)| start + at));
        }
        lines
    }

    /// Returns the index of the file that contains an offset, and the line in it, from 1. `None`
    /// without files.
    pub(super) fn place(&self, at: usize) -> Option<(usize, usize)> {
        let file = self.files.partition_point(|start| *start <= at);
        let file = file.checked_sub(1)?;
        let before = |at: usize| self.newlines.partition_point(|newline| *newline < at);
        Some((file, 1 + before(at) - before(self.files[file])))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::SourceFile;

    #[test]
    fn places_become_files_and_lines() {
        let file = |text: &str| SourceFile {
            path: Path::new("/f").to_owned(),
            text: text.to_owned(),
        };
        let files = vec![file("a\nb\n"), file(""), file("\nx")];
        let lines = LineIndex::from_document(&Document { files });
        for (at, wanted) in [
            (0, (0, 1)),
            (1, (0, 1)),
            (2, (0, 2)),
            (4, (0, 3)),
            (5, (1, 1)),
            (6, (2, 1)),
            (7, (2, 2)),
            (99, (2, 2)),
        ] {
            assert_eq!(lines.place(at), Some(wanted), "{at}");
        }
        assert_eq!(
            LineIndex::from_document(&Document::default()).place(0),
            None
        );
    }
}
