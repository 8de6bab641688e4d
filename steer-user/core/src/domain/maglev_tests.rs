use proptest::prelude::*;

use super::*;

fn named(weights: &[u32]) -> Vec<(u16, String, u32)> {
    let member = |(i, w): (usize, &u32)| (i as u16 + 1, format!("backend-{i}"), *w);
    weights.iter().enumerate().map(member).collect()
}

fn table(members: &[(u16, String, u32)], size: usize, seed: u64) -> Vec<Choice> {
    let members: Vec<_> = members
        .iter()
        .map(|(id, name, weight)| Weighted {
            id: *id,
            name,
            weight: *weight,
        })
        .collect();
    build(&members, size, seed)
}

#[test]
fn sizes_are_prime_and_large_enough() {
    for size in SIZES {
        assert!((2..size).all(|d| size % d != 0), "{size}");
    }
    assert_eq!(table_size(0), 101);
    assert_eq!(table_size(1), 101);
    assert_eq!(table_size(2), 251);
    assert_eq!(table_size(10_000), 65_537);
    for members in 1..=655 {
        assert!(table_size(members) >= 100 * members);
    }
}

#[test]
fn a_table_without_members_is_zero() {
    assert_eq!(table(&[], 101, 1), vec![Choice::default(); 101]);
    assert_eq!(table(&named(&[0, 0]), 101, 1), vec![Choice::default(); 101]);
    assert!(table(&named(&[1]), 0, 1).is_empty());
}

#[test]
fn a_lone_member_has_no_second() {
    let lone = Choice {
        first: 1,
        second: 0,
    };
    assert_eq!(table(&named(&[7, 0]), 101, 1), vec![lone; 101]);
}

#[test]
fn the_table_is_the_same_in_every_release() {
    let firsts = table(&named(&[1, 2, 3]), 11, 42);
    let firsts: Vec<_> = firsts.iter().map(|c| (c.first, c.second)).collect();
    assert_eq!(firsts, PINNED);
}

const PINNED: [(u16, u16); 11] = [
    (2, 3),
    (3, 2),
    (1, 3),
    (1, 2),
    (2, 3),
    (3, 1),
    (3, 2),
    (2, 3),
    (3, 2),
    (3, 1),
    (2, 3),
];

/// Returns the share of other members' slots that move when one of `n` equal members leaves, times
/// `n`.
fn moved(n: usize, gone: usize, seed: u64) -> f64 {
    let size = table_size(n);
    let mut members = named(&vec![100; n]);
    let before = table(&members, size, seed);
    let gone = members.remove(gone).0;
    let after = table(&members, size, seed);
    let kept = before.iter().zip(&after).filter(|(b, _)| b.first != gone);
    let moved = kept.clone().filter(|(b, a)| b.first != a.first).count();
    moved as f64 * n as f64 / kept.count() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(0u32..1000, 1..60), seed: u64) {
        let size = table_size(weights.len());
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let table = table(&named(&weights), size, seed);
        for (i, weight) in weights.iter().enumerate() {
            let got = table.iter().filter(|c| usize::from(c.first) == i + 1).count() as f64;
            let want = size as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((got - want).abs() <= (want * 0.01).max(1.0), "{got} of {want}");
            prop_assert!(*weight > 0 || table.iter().all(|c| usize::from(c.second) != i + 1));
        }
    }

    #[test]
    fn removing_a_member_moves_little_else(n in 2usize..80, gone in 0usize..80, seed: u64) {
        // Moves among slots that the member did not own, in units of 1/n. A single table has no
        // bound, and one of many thousands exceeds 2.5: the mean over many tables must be small.
        let moves: Vec<f64> = (0..8).map(|turn| moved(n, gone % n, seed.wrapping_add(turn))).collect();
        prop_assert!(moves.iter().sum::<f64>() / moves.len() as f64 <= 2.0, "{moves:?}");
    }

    #[test]
    fn order_does_not_matter(
        weights in prop::collection::vec(0u32..1000, 1..40),
        turn in 0usize..40,
        seed: u64,
    ) {
        let mut members = named(&weights);
        let size = table_size(members.len());
        let before = table(&members, size, seed);
        members.reverse();
        members.rotate_left(turn % weights.len());
        prop_assert_eq!(before, table(&members, size, seed));
    }

    #[test]
    fn every_slot_has_two_different_members(
        weights in prop::collection::vec(1u32..1000, 2..40),
        seed: u64,
    ) {
        let table = table(&named(&weights), table_size(weights.len()), seed);
        prop_assert!(table.iter().all(|c| c.first != c.second && c.first != 0 && c.second != 0));
    }
}
