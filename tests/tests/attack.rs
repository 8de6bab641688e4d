//! Short runs of the attacks most harmful to a node that trusts forgeable packets; needs root.
//! `cargo xtask attack` runs all of them for a minute each.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

use steer_tests::attack::{all, run};

/// Attacks a site, whose clients must not notice.
fn nobody_notices(name: &str, seconds: u64) {
    let attack = all()
        .into_iter()
        .find(|attack| attack.name == name)
        .unwrap();
    let outcome = run(&attack, Duration::from_secs(seconds), 1).unwrap();
    // Packets are counted if the attack sends any.
    assert!(outcome.packets > 0 || name == "nothing", "{outcome:?}");
    assert!(outcome.requests > 20, "{outcome:?}");
    let faults = outcome.faults();
    assert!(
        faults.is_empty(),
        "{name}: {}\n{outcome:?}",
        faults.join("; ")
    );
}

#[test]
fn a_site_alone_loses_nothing() {
    nobody_notices("nothing", 2);
}

#[test]
fn resets_in_the_name_of_clients_and_backends_break_no_stream() {
    nobody_notices("rst", 4);
}

#[test]
fn a_reset_with_a_syn_behind_it_breaks_no_stream() {
    nobody_notices("rst-syn", 4);
}

#[test]
fn syns_while_backends_drain_break_no_stream() {
    nobody_notices("syn-drain", 4);
}

#[test]
fn acknowledgments_in_a_neighbours_name_divert_nothing() {
    nobody_notices("ack", 4);
}

#[test]
fn syns_with_a_wrong_checksum_eject_nobody() {
    nobody_notices("unanswered", 4);
}

#[test]
fn refusals_in_the_name_of_backends_eject_nobody() {
    nobody_notices("refused", 4);
}

#[test]
fn frames_for_other_hosts_do_nothing() {
    nobody_notices("other-macs", 4);
}

#[test]
fn sources_that_no_host_has_do_nothing() {
    nobody_notices("martians", 4);
}

#[test]
fn a_burst_in_many_names_leaves_ports_to_others() {
    nobody_notices("udp-ports", 5);
}
