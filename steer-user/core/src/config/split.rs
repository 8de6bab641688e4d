//! The key `split` of services and classes: the initial pools of new flows.

use std::collections::{BTreeMap, HashMap};

use super::raw::Text;
use super::report::Report;
use super::spanned::Spanned;

/// Returns indexes in the list of pools with their percentages, which sum up to 100. If the list is
/// incomplete, its missing pools were reported already.
pub(super) fn split_sections(
    raw: Option<&Spanned<BTreeMap<String, Spanned<u32>>>>,
    pools: &[(usize, &Text)],
    complete: bool,
    report: &mut Report<'_>,
) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    let Some(raw) = raw else { return found };
    let mut sum = 0_u32;
    let names = pools.iter().enumerate();
    let places: HashMap<&str, usize> = names
        .map(|(place, (_, pool))| (pool.get_ref().as_str(), place))
        .collect();
    for (name, share) in raw.get_ref() {
        let Some(place) = places.get(name.as_str()).copied() else {
            if !complete {
                continue;
            }
            let what = format!("`split` names pool {name:?}, which `pools` does not");
            report.add(share.span(), what, "add it to `pools`, or remove it here");
            continue;
        };
        sum = sum.saturating_add(*share.get_ref());
        found.push((place, *share.get_ref()));
    }
    found.sort_unstable();
    if sum != 100 && found.len() == raw.get_ref().len() {
        let what = format!("the shares of `split` sum up to {sum}");
        report.add(raw.span(), what, "write percentages that sum up to 100");
    }
    found
}
