//! QUIC: encrypted connection ids.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::cid::{LowBits, Server, encode};
use steer_tests::packet::TestPacket;

use crate::{
    fixture::{ENCRYPTED, Fixture, LAYOUTS, server_id, vip},
    nat,
    quic::{
        KINDS, Kind, VERSIONS, expect, id_of, members, moved, moving, nat_members, packet, slot,
    },
};

const KEY: [u8; 16] = *b"known to servers";

/// Returns an encrypted connection id of a member's server.
fn id_with(key: &[u8; 16], member: u16, (rotation, id, nonce): (u8, usize, usize)) -> Vec<u8> {
    let server = Server::new(rotation, &server_id(member, id)).unwrap();
    let nonce: Vec<u8> = (0..nonce as u8)
        .map(|at| at ^ 0x77 ^ member as u8)
        .collect();
    let plain = encode(server, &nonce, LowBits::Random(9)).unwrap();
    plain.encrypted(key).bytes().to_vec()
}

#[test]
fn encrypted_ids_lead_to_their_servers() {
    let mut fixture = Fixture::new();
    fixture.decrypt_ids(&KEY);
    for is_v4 in [true, false] {
        moving(&mut fixture, is_v4);
        for member in members(is_v4) {
            for layout in ENCRYPTED {
                for kind in KINDS {
                    for version in VERSIONS {
                        let mut id = id_with(&KEY, member, layout);
                        // A server may append arbitrary bytes.
                        if id.len() < 20 && version == VERSIONS[1] {
                            id.push(0x99);
                        }
                        let packet = packet(is_v4, vip::QUIC, kind.datagram(version, &id));
                        expect(&mut fixture, &packet, member);
                        expect(&mut fixture, &moved(&packet), member);
                    }
                }
            }
        }
    }
    assert_eq!(fixture.xdp.maps().flow_counts().unwrap(), [0, 0]);
    fixture.check_counters();
}

#[test]
fn ids_of_other_keys_name_nobody() {
    let mut fixture = Fixture::new();
    fixture.decrypt_ids(&KEY);
    for is_v4 in [true, false] {
        let [first, other] = members(is_v4);
        for layout in ENCRYPTED {
            for kind in KINDS {
                for id in [id_with(&[1; 16], other, layout), id_of(other, layout)] {
                    let packet = packet(is_v4, vip::QUIC, kind.datagram(1, &id));
                    expect(&mut fixture, &packet, first);
                }
            }
        }
        // Ids of layouts without a key are read as before.
        for layout in LAYOUTS {
            let packet = packet(
                is_v4,
                vip::QUIC,
                Kind::Short.datagram(1, &id_of(other, layout)),
            );
            expect(&mut fixture, &packet, other);
        }
    }
}

#[test]
fn an_encrypted_id_that_the_datagram_cuts_off_names_nobody() {
    let mut fixture = Fixture::new();
    fixture.decrypt_ids(&KEY);
    let [first, other] = members(true);
    for layout in ENCRYPTED {
        let id = id_with(&KEY, other, layout);
        for kind in [Kind::Initial, Kind::Short] {
            let whole = kind.datagram(1, &id);
            let end = if kind == Kind::Short { 1 } else { 6 } + id.len();
            for len in 0..whole.len() {
                let packet = TestPacket {
                    // Bytes after the datagram are not part of it.
                    padding: 40,
                    ..packet(true, vip::QUIC, whole[..len].to_vec())
                };
                let member = if len < end { first } else { other };
                expect(&mut fixture, &packet, member);
            }
        }
    }
}

#[test]
fn a_client_that_moves_stays_with_its_server_under_nat() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        fixture.decrypt_ids(&KEY);
        let [_, other] = nat_members(is_v4);
        for layout in ENCRYPTED {
            let id = id_with(&KEY, other, layout);
            let open = packet(is_v4, vip::QUIC_NAT, Kind::Short.datagram(1, &id));
            let port = nat::forward(&mut fixture, &open, other);
            nat::back(&mut fixture, &nat::answer(&open, other, port, 0), &open);
            nat::forward(&mut fixture, &moved(&open), other);
        }
    }
}

#[test]
fn explain_decrypts_as_the_kernel_does() {
    let mut fixture = Fixture::new();
    fixture.decrypt_ids(&KEY);
    fixture.explains = true;
    let [_, other] = members(true);
    for layout in ENCRYPTED {
        let id = id_with(&KEY, other, layout);
        expect(
            &mut fixture,
            &packet(true, vip::QUIC, Kind::Short.datagram(1, &id)),
            other,
        );
    }
}

#[test]
fn any_ids_are_decrypted_alike() {
    let mut random = StdRng::seed_from_u64(13);
    let mut fixture = Fixture::new();
    fixture.stop_the_clock();
    for round in 0..40 {
        let key: [u8; 16] = random.random();
        fixture.decrypt_ids(&key);
        fixture.set_slot(
            slot(true, vip::QUIC),
            steer_common::abi::Slot::owned_by(1, 2),
        );
        for _ in 0..50 {
            let layout = ENCRYPTED[random.random_range(0..ENCRYPTED.len())];
            let id: Vec<u8> = if random.random() {
                id_with(&key, random.random_range(1..=4), layout)
            } else {
                let len = random.random_range(0..21);
                (0..len).map(|_| random.random()).collect()
            };
            let kind = KINDS[random.random_range(0..KINDS.len())];
            let mut datagram = kind.datagram(1, &id);
            if random.random_ratio(1, 4) {
                datagram.truncate(random.random_range(0..=datagram.len()));
            }
            let packet = packet(round % 2 == 0, vip::QUIC, datagram);
            fixture.run_quickly(&packet.bytes());
        }
    }
    fixture.check_drops();
}
