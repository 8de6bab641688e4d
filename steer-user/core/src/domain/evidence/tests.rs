use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn probes(testimony: Testimony) -> Inputs {
    Inputs {
        probes: Some(Evidence::Testimony(testimony)),
        pool_has_room: true,
        ..Inputs::default()
    }
}

#[test]
fn a_hint_changes_nothing() {
    let inputs = Inputs {
        probes: Some(Evidence::Hint),
        failing_for: GONE_AFTER * 100,
        pool_has_room: true,
        ..Inputs::default()
    };
    assert_eq!(verdict(&inputs), Verdict::Serving);
}

#[test]
fn testimony_ejects_unless_clients_are_answered() {
    for testimony in [
        Testimony::ProbeTimeout,
        Testimony::ProbeRejected,
        Testimony::Untrusted,
        Testimony::ReportedSilent,
    ] {
        let mut inputs = probes(testimony);
        assert_eq!(verdict(&inputs), Verdict::Ejected(testimony.into()));
        inputs.answered = Some(149 * MS);
        let by = Contradiction::ClientsAnswered;
        assert_eq!(verdict(&inputs), Verdict::Contradicted(by));
        inputs.answered = Some(400 * MS);
        assert_eq!(verdict(&inputs), Verdict::Ejected(testimony.into()));
        inputs.patience = 500 * MS;
        assert_eq!(verdict(&inputs), Verdict::Contradicted(by));
    }
}

#[test]
fn what_refuses_new_connections_is_not_excused_by_answers_to_open_ones() {
    let mut inputs = probes(Testimony::ReportedDown);
    inputs.answered = Some(MS);
    let ejected = Verdict::Ejected(Testimony::ReportedDown.into());
    assert_eq!(verdict(&inputs), ejected);
    inputs.connected = true;
    let by = Contradiction::ConnectionAccepted;
    assert_eq!(verdict(&inputs), Verdict::Contradicted(by));
    let refused = Inputs {
        packets: Some(Evidence::Proof(Proof::ConnectionRefused)),
        answered: Some(MS),
        ..Inputs::default()
    };
    let ejected = Verdict::Ejected(Proof::ConnectionRefused.into());
    assert_eq!(verdict(&refused), ejected, "its open flows go on");
    let refused = Inputs {
        answered: Some(2 * RECENTLY_SERVED),
        ..refused
    };
    assert!(verdict(&refused).is_down());
}

#[test]
fn two_sources_are_as_good_as_a_proof_and_two_of_one_are_not() {
    let mut inputs = probes(Testimony::ProbeTimeout);
    inputs.answered = Some(1_001 * MS);
    assert!(!verdict(&inputs).is_down());
    inputs.packets = Some(Evidence::Testimony(Testimony::SilentPackets));
    assert!(verdict(&inputs).is_down());
    inputs.answered = Some(900 * MS);
    assert!(!verdict(&inputs).is_down(), "they were answered just now");
    let (one, other) = (Testimony::ProbeTimeout, Testimony::ReportedDown);
    assert_eq!(Corroborated::join(one, other), None);
}

#[test]
fn who_answers_neither_probes_nor_clients_is_down_in_the_end() {
    let mut inputs = probes(Testimony::ProbeTimeout);
    inputs.failing_for = GONE_AFTER - MS;
    assert!(!verdict(&inputs).is_down());
    inputs.failing_for = GONE_AFTER;
    assert!(verdict(&inputs).is_down());
    inputs.answered = Some(GONE_AFTER / 2);
    assert!(!verdict(&inputs).is_down());
    // A machine with a wrong certificate still responds.
    let mut inputs = probes(Testimony::Untrusted);
    inputs.failing_for = GONE_AFTER * 10;
    assert!(!verdict(&inputs).is_down());
}

#[test]
fn a_completion_that_failed_is_proof_unless_clients_are_answered_or_it_is_one_too_many() {
    let mut inputs = Inputs {
        probes: Some(Evidence::Proof(Proof::CompletionFailed)),
        answered: Some(60 * MS),
        pool_has_room: true,
        ..Inputs::default()
    };
    assert!(verdict(&inputs).serves());
    inputs.answered = Some(2 * RECENTLY_SERVED);
    assert!(!verdict(&inputs).serves() && !verdict(&inputs).is_down());
    inputs.answered = None;
    assert!(verdict(&inputs).is_down());
    inputs.pool_has_room = false;
    let by = Contradiction::PoolLimit;
    assert_eq!(verdict(&inputs), Verdict::Contradicted(by));
}

fn any_evidence() -> impl Strategy<Value = Option<Evidence>> {
    let of_probes = [
        Testimony::ProbeTimeout,
        Testimony::ProbeRejected,
        Testimony::Untrusted,
        Testimony::ReportedDown,
        Testimony::NotReady,
        Testimony::ReportedSilent,
    ];
    let mut all: Vec<_> = of_probes.map(|t| Some(Evidence::Testimony(t))).into();
    all.extend([
        None,
        Some(Evidence::Hint),
        Some(Evidence::Proof(Proof::CompletionFailed)),
        Some(Evidence::Proof(Proof::ConnectionRefused)),
    ]);
    prop::sample::select(all)
}

fn any_of_packets() -> impl Strategy<Value = Option<Evidence>> {
    let all = [
        Testimony::RefusedPackets,
        Testimony::UnansweredPackets,
        Testimony::SilentPackets,
        Testimony::Outlier,
    ];
    let mut all: Vec<_> = all.map(|t| Some(Evidence::Testimony(t))).into();
    all.extend([None, Some(Evidence::Proof(Proof::ConnectionRefused))]);
    prop::sample::select(all)
}

proptest! {
    #[test]
    fn nothing_makes_down_who_serves_its_clients(
        probes in any_evidence(),
        packets in any_of_packets(),
        failing in 0_u64..1_000_000,
        answered in 0_u64..1_000,
        connected: bool,
        pool_has_room: bool,
    ) {
        let inputs = Inputs {
            probes,
            packets,
            failing_for: Duration::from_millis(failing),
            answered: Some(Duration::from_millis(answered)),
            connected,
            pool_has_room,
            patience: Duration::ZERO,
        };
        prop_assert!(!verdict(&inputs).is_down(), "{:?}", verdict(&inputs));
    }

    #[test]
    fn weak_signals_of_probes_never_eject_who_answers(
        probes in any_evidence(),
        failing in 0_u64..1_000_000,
        answered in 0_u64..=150,
        pool_has_room: bool,
    ) {
        let refuses = matches!(
            probes,
            Some(
                Evidence::Testimony(Testimony::ReportedDown | Testimony::NotReady)
                    | Evidence::Proof(Proof::ConnectionRefused)
            )
        );
        let inputs = Inputs {
            probes,
            failing_for: Duration::from_millis(failing),
            answered: Some(Duration::from_millis(answered)),
            pool_has_room,
            ..Inputs::default()
        };
        prop_assert_eq!(verdict(&inputs).serves(), !refuses);
    }

    #[test]
    fn one_testimony_is_never_enough_for_a_reset(
        packets in any_of_packets(),
        answered in proptest::option::of(0_u64..1_000_000),
    ) {
        let proof = matches!(packets, Some(Evidence::Proof(_)));
        let inputs = Inputs {
            packets,
            answered: answered.map(Duration::from_millis),
            ..Inputs::default()
        };
        prop_assert!(proof || !verdict(&inputs).is_down());
    }
}
