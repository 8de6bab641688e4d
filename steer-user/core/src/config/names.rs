//! Named items, and references to them.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use super::raw::Text;
use super::report::Report;
use super::spanned::Spanned;
use super::suggest;

/// Upper bound of unresolved references for which a similar name is looked up.
const MAX_SUGGESTED: usize = 8;

/// Items by name. An invalid item keeps its entry, so that references to it are not reported as
/// well.
pub(super) struct Names<T> {
    kind: &'static str,
    items: Vec<Option<T>>,
    by_name: HashMap<String, usize>,
    /// Whether some items could not even be read.
    partial: bool,
    /// Number of unresolved references so far.
    misses: Cell<usize>,
}

impl<T> Names<T> {
    pub(super) fn new(kind: &'static str, partial: bool) -> Self {
        Self {
            kind,
            items: Vec::new(),
            by_name: HashMap::new(),
            partial,
            misses: Cell::new(0),
        }
    }

    pub(super) fn push(&mut self, name: &Text, item: Option<T>, report: &mut Report<'_>) {
        let kind = self.kind;
        if self.by_name.contains_key(name.get_ref()) {
            let what = format!("two {kind}s are named {:?}", name.get_ref());
            report.add(name.span(), what, "rename one of them");
        }
        // A reference may be to the name that it should have had.
        self.partial |= self.by_name.contains_key(name.get_ref()) || name.get_ref().is_empty();
        self.by_name
            .insert(name.get_ref().clone(), self.items.len());
        self.items.push(item);
    }

    /// Returns the valid item with a name.
    pub(super) fn get(&self, name: &Text) -> Option<&T> {
        self.item(*self.by_name.get(name.get_ref())?)
    }

    /// Skips the remaining items; references to missing ones are not reported from now on.
    pub(super) fn stop(&mut self) {
        self.partial = true;
    }

    /// Returns the item at an index from [`Self::resolve`]; `None` if it is invalid.
    pub(super) fn item(&self, index: usize) -> Option<&T> {
        self.items.get(index)?.as_ref()
    }

    /// Returns the item that a reference names.
    pub(super) fn find(
        &mut self,
        name: &Text,
        owner: &str,
        report: &mut Report<'_>,
    ) -> Option<&mut T> {
        let kind = self.kind;
        if let Some(index) = self.by_name.get(name.get_ref()) {
            return self.items.get_mut(*index)?.as_mut();
        }
        if !self.partial {
            let what = format!(
                "{owner} names {kind} {:?}, which does not exist",
                name.get_ref()
            );
            let todo = self.advice(name, report);
            report.add(name.span(), what, todo);
        }
        None
    }

    /// Returns the items that a list names, each with its reference.
    pub(super) fn resolve<'a>(
        &self,
        list: &'a Spanned<Vec<Text>>,
        owner: &str,
        report: &mut Report<'_>,
    ) -> Vec<(usize, &'a Text)> {
        let kind = self.kind;
        if list.get_ref().is_empty() {
            let what = format!("{owner} has no {kind}");
            report.add(list.span(), what, format!("name at least one {kind}"));
        }
        let mut found: Vec<(usize, &Text)> = Vec::new();
        let mut seen: HashSet<usize> = HashSet::new();
        for name in list.get_ref() {
            if report.is_over() {
                break;
            }
            match self.by_name.get(name.get_ref()) {
                Some(index) if !seen.insert(*index) => {
                    let what = format!("{owner} names {kind} {:?} twice", name.get_ref());
                    report.add(name.span(), what, "remove one of them");
                }
                Some(index) => found.push((*index, name)),
                None if self.partial => {}
                None => {
                    let what = format!(
                        "{owner} names {kind} {:?}, which does not exist",
                        name.get_ref()
                    );
                    let todo = self.advice(name, report);
                    report.add(name.span(), what, todo);
                }
            }
        }
        found
    }

    /// Returns whether all items could be read and are valid.
    pub(super) fn are_whole(&self) -> bool {
        !self.partial && self.items.iter().all(Option::is_some)
    }

    /// Returns advice for an unresolved reference.
    fn advice(&self, name: &Text, report: &Report<'_>) -> String {
        let (kind, misses) = (self.kind, self.misses.get());
        self.misses.set(misses + 1);
        let known = self.by_name.keys().map(String::as_str);
        // Each comparison takes time, and a part of a secret is still a secret.
        let near = (misses < MAX_SUGGESTED && !report.is_hidden(name.get_ref()))
            .then(|| suggest::nearest(name.get_ref(), known))
            .flatten();
        match near {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("add a [[{kind}]] of this name, or correct it"),
        }
    }

    /// Returns all items if they are all valid.
    pub(super) fn all(self) -> Option<Vec<T>> {
        self.items.into_iter().collect()
    }
}
