//! Index of lines, so that a place in a document becomes a file and a line without reading it all again.

use super::document::Document;

/// Beginnings of files and ends of lines, by their places in a document.
pub(super) struct LineIndex {
    /// Of each file.
    files: Vec<usize>,
    /// Places of newlines over all files, ascending.
    newlines: Vec<usize>,
}

impl LineIndex {
    pub(super) fn of(document: &Document) -> Self {
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

    /// The index of the file that a place is in, and its line there, from 1. `None` without files.
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
        let lines = LineIndex::of(&Document { files });
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
        assert_eq!(LineIndex::of(&Document::default()).place(0), None);
    }
}
