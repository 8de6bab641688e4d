//! Takeover of maps with other layouts, created by hand: which part of each entry is converted;
//! needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key},
    util::nr_cpus,
};
use serde_json::{Value, json};
use steer_common::abi::{
    Address, FlowEntry, FlowKey, Member, MemberState, NatForward, Slot, Track, maps,
};
use steer_core::dataplane::{FlowTables as _, SteeringTables as _, TrafficCounters as _};
use steer_dataplane::{OpenOptions, Pins, Xdp};
use steer_tests::bpffs::Bpffs;

const CHUNK: usize = 1024;

fn options(bpffs: &Path) -> OpenOptions {
    OpenOptions {
        bpffs: Some(bpffs.to_owned()),
        ..OpenOptions::default()
    }
}

fn record(path: &Path) -> Array<MapData, [u8; CHUNK]> {
    Map::Array(MapData::from_pin(path).unwrap())
        .try_into()
        .unwrap()
}

fn read(path: &Path) -> Value {
    let map = record(path);
    let head = map.get(&0, 0).unwrap();
    let length = u32::from_le_bytes(*head.first_chunk().unwrap()) as usize;
    let text: Vec<u8> = (1..map.len())
        .flat_map(|i| map.get(&i, 0).unwrap())
        .collect();
    serde_json::from_slice(&text[..length]).unwrap()
}

fn write(path: &Path, value: &Value) {
    let mut map = record(path);
    let text = serde_json::to_vec(value).unwrap();
    for (index, part) in (1..).zip(text.chunks(CHUNK)) {
        let mut chunk = [0; CHUNK];
        chunk[..part.len()].copy_from_slice(part);
        map.set(index, chunk, 0).unwrap();
    }
    let mut head = map.get(&0, 0).unwrap();
    head[..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
    map.set(0, head, 0).unwrap();
}

/// Changes pinned maps to another version, and moves them to its folder.
fn make_other(bpffs: &Path) -> std::path::PathBuf {
    let pins = Pins::new(bpffs);
    let own = pins
        .map(maps::LAYOUT)
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    let other = bpffs.join("steer/v1");
    fs::rename(own, &other).unwrap();
    other.join("maps")
}

fn column(name: &str, offset: usize, size: usize) -> Value {
    json!({ "name": name, "offset": offset, "size": size })
}

fn replace(folder: &Path, name: &str, pin: impl FnOnce(&Path)) {
    let path = folder.join(name);
    fs::remove_file(&path).unwrap();
    pin(&path);
}

fn flow(port: u16) -> FlowKey {
    FlowKey {
        source: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)).into(),
        source_port: port,
        family: 4,
        protocol: 6,
        ..FlowKey::default()
    }
}

#[test]
fn entries_are_converted_field_by_field() {
    let bpffs = Bpffs::mount().unwrap();
    let nat = NatForward {
        source_port: 4711,
        member: 9,
        ..NatForward::default()
    };
    {
        let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
        let maps = xdp.maps();
        maps.add_nat_flow(&flow(1), &nat, &FlowKey::default(), &Default::default())
            .unwrap();
        let member = Member {
            state: MemberState::Draining as u8,
            port: 80,
            ..Member::default()
        };
        maps.set_member(7, &member);
    }
    let folder = make_other(bpffs.path());
    let path = folder.join(maps::LAYOUT);
    let mut layout = read(&path);
    layout["abi"] = json!(1);

    // Values in another order, with a shorter number and a removed field.
    replace(&folder, maps::FLOWS, |pin| {
        let mut old: HashMap<MapData, FlowKey, [u8; 10]> = HashMap::create(2048, 0).unwrap();
        for port in 0..1000_u16 {
            let [a, b] = port.to_le_bytes();
            old.insert(flow(port), [3, 0, 99, 99, a, b, 1, 2, 3, 4], 0)
                .unwrap();
        }
        old.pin(pin).unwrap();
    });
    layout["maps"][maps::FLOWS]["value_size"] = json!(10);
    layout["maps"][maps::FLOWS]["value"] = json!([
        column("member", 0, 2),
        column("gone", 2, 2),
        column("slot", 4, 2),
        column("last_ticks", 6, 4),
    ]);

    // A trie with longer values.
    replace(&folder, maps::DENIED, |pin| {
        let mut old: LpmTrie<MapData, Address, u64> = LpmTrie::create(64, 1).unwrap();
        let address = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 0)).into();
        old.insert(&Key::new(120, address), 1, 0).unwrap();
        old.pin(pin).unwrap();
    });
    layout["maps"][maps::DENIED]["value_size"] = json!(8);
    layout["maps"][maps::DENIED]["value"] = json!([column("", 0, 8)]);

    // Per-CPU counters, with one field less.
    let cpus = nr_cpus().unwrap();
    replace(&folder, maps::MEMBER_COUNTS, |pin| {
        let mut old: PerCpuArray<MapData, [u64; 3]> = PerCpuArray::create(64, 0).unwrap();
        let values = (0..cpus as u64)
            .map(|cpu| [cpu + 1, 10, 100])
            .collect::<Vec<_>>();
        old.set(7, PerCpuValues::try_from(values).unwrap(), 0)
            .unwrap();
        old.pin(pin).unwrap();
    });
    layout["maps"][maps::MEMBER_COUNTS]["value_size"] = json!(24);
    layout["maps"][maps::MEMBER_COUNTS]["value"] = json!([
        column("flows", 0, 8),
        column("packets", 8, 8),
        column("bytes", 16, 8)
    ]);

    // Slots of two words, and fewer of them.
    replace(&folder, maps::SLOTS, |pin| {
        let mut old: Array<MapData, [u16; 8]> = Array::create(1000, 0).unwrap();
        old.set(5, [0, 0, 0, 0, 11, 12, 13, 0], 0).unwrap();
        old.pin(pin).unwrap();
    });
    layout["maps"][maps::SLOTS]["value_size"] = json!(16);
    layout["maps"][maps::SLOTS]["value"] = json!([
        column("owner", 8, 2),
        column("first", 10, 2),
        column("second", 12, 2)
    ]);
    write(&path, &layout);

    // A failure before the program is attached leaves no trace.
    drop(Xdp::open(&options(bpffs.path())).unwrap());
    assert!(path.exists());
    assert!(!Pins::new(bpffs.path()).map(maps::LAYOUT).exists());

    // The maps of a daemon that was killed before the cut-over are only a copy, and are created
    // again.
    let gate = Pins::new(bpffs.path()).map(maps::CUTOVER);
    std::mem::forget(Xdp::open(&options(bpffs.path())).unwrap());
    unlock(&bpffs.path().join("steer"));
    assert!(gate.exists());

    let flows = Map::HashMap(MapData::from_pin(folder.join(maps::FLOWS)).unwrap());
    let mut flows: HashMap<MapData, FlowKey, [u8; 10]> = flows.try_into().unwrap();
    let value = |port: u16, member: u8| {
        let [a, b] = port.to_le_bytes();
        [member, 0, 99, 99, a, b, 1, 2, 3, 4]
    };
    flows.insert(flow(1000), value(1000, 3), 0).unwrap();
    let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
    assert!(xdp.adopted());
    // Changes by packets between the first copy and the cut-over: a new flow, a used one, and a
    // removed one.
    flows.insert(flow(1001), value(1001, 4), 0).unwrap();
    flows.insert(flow(2), value(2, 5), 0).unwrap();
    flows.remove(&flow(3)).unwrap();
    xdp.settle().unwrap();
    assert!(!bpffs.path().join("steer/v1").exists());
    assert!(!gate.exists());
    let kernel = xdp.maps();
    for port in 0..1002 {
        let wanted = FlowEntry {
            last_ticks: 0x0403_0201,
            slot: u32::from(port),
            member: match port {
                2 => 5,
                1001 => 4,
                _ => 3,
            },
            ..FlowEntry::default()
        };
        let wanted = (port != 3).then_some(wanted);
        assert_eq!(kernel.flow(&flow(port)), wanted, "{port}");
    }
    assert_eq!(kernel.nat_forward(&flow(1)), Some(nat));
    assert_eq!(kernel.member(7).port, 80);
    let snapshot = kernel.snapshot();
    let address = Address::from(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 0)));
    assert_eq!(snapshot.denied, [(address, 120)]);
    let counters = kernel.counters().unwrap().members[7];
    assert_eq!(counters.packets, 10 * cpus as u64);
    assert_eq!(counters.flows, (1..=cpus as u64).sum::<u64>());
    assert_eq!(counters.replies, 0);
    let slot = Slot {
        owner: 11,
        first: 12,
        second: 13,
        // Marks set by the previous programs meanwhile are unknown.
        track: Track::Some as u8,
        seen: 1,
    };
    assert_eq!(kernel.slots(5..6), [slot]);
}

/// Releases this process' locks on a folder, as the kernel does for a killed process.
fn unlock(folder: &Path) {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|path| path == folder) {
            let fd: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            // SAFETY: flock takes any number, and touches no memory.
            unsafe { libc::flock(fd, libc::LOCK_UN) };
        }
    }
}

#[test]
fn what_cannot_be_converted_is_refused_and_left() {
    let bpffs = Bpffs::mount().unwrap();
    drop(Xdp::open(&options(bpffs.path())).unwrap());
    let folder = make_other(bpffs.path());
    let path = folder.join(maps::LAYOUT);
    let mut layout = read(&path);
    layout["maps"][maps::NAT_FORWARD]["value"] = json!([column("backend", 0, 6)]);
    write(&path, &layout);
    let error = format!("{:#}", Xdp::open(&options(bpffs.path())).err().unwrap());
    let said = "\"backend\" had 6 bytes and has 16";
    assert!(error.contains(said), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(path.exists());
    assert!(!Pins::new(bpffs.path()).map(maps::CONFIG).exists());
}

#[test]
fn another_layout_of_the_same_version_is_refused() {
    let bpffs = Bpffs::mount().unwrap();
    drop(Xdp::open(&options(bpffs.path())).unwrap());
    let path = Pins::new(bpffs.path()).map(maps::LAYOUT);
    let mut layout = read(&path);
    layout["maps"][maps::NAT_FORWARD]["value"][0]["offset"] = json!(64);
    write(&path, &layout);
    let error = format!("{:#}", Xdp::open(&options(bpffs.path())).err().unwrap());
    assert!(error.contains(maps::NAT_FORWARD), "{error}");
    assert!(error.contains("steer detach"), "{error}");
}
