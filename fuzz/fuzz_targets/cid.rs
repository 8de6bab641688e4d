//! QUIC-LB connection ids with any layout.
#![no_main]

use libfuzzer_sys::fuzz_target;
use steer_common::{
    abi::CidLayouts,
    cid::{self, Layout, LowBits, MAX_LEN, ROTATIONS, Server},
};

fuzz_target!(|input: (Vec<(u8, u8)>, Vec<u8>)| {
    let (lengths, id) = input;
    let mut layouts = CidLayouts::default();
    for (rotation, (server_id, nonce)) in (0..ROTATIONS).zip(lengths) {
        let layout = Layout::new(usize::from(server_id), usize::from(nonce));
        layouts = layouts.with(rotation, layout);
        assert_eq!(layouts.layout(rotation), layout);
    }
    let Some(server) = cid::decode(&id, &layouts) else {
        return;
    };
    let layout = layouts.layout(server.rotation).expect("it was found by it");
    assert_eq!(usize::from(server.len), layout.server_id());
    assert!(id.len() >= layout.cid_len());
    let bytes = &id[1..=layout.server_id()];
    assert_eq!(Server::new(server.rotation, bytes), Some(server));
    // An id that a server would generate from it equals the input, as far as the layout goes.
    let nonce = &id[1 + layout.server_id()..layout.cid_len()];
    let made = cid::encode(server, nonce, LowBits::Random(id[0])).expect("it has a layout");
    assert_eq!(made.bytes(), &id[..layout.cid_len()]);
    assert!(made.bytes().len() <= MAX_LEN);
});
