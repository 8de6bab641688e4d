//! Memory of the maps, and tables that are resized; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{fs, path::Path};

use steer_common::abi::{FlowKey, NatForward, NatReverse, maps};
use steer_core::dataplane::FlowTables as _;
use steer_dataplane::{OpenOptions, Pins, Sizes, Xdp};
use steer_tests::bpffs::Bpffs;

/// Sizes of a node whose configuration has no address for `nat`.
const NO_NAT: Sizes = Sizes {
    flows: 262_144,
    nat_flows: 1024,
};

fn options(bpffs: &Path, sizes: Sizes) -> OpenOptions {
    OpenOptions {
        bpffs: Some(bpffs.to_owned()),
        sizes,
    }
}

fn possible_cpus() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last = text.trim().rsplit(['-', ',']).next().unwrap();
    last.parse::<usize>().unwrap() + 1
}

#[test]
fn what_is_reckoned_for_each_map_is_what_the_kernel_counts() {
    for sizes in [Sizes::default(), NO_NAT, Sizes::of_each(5000)] {
        let xdp = Xdp::open(&OpenOptions { bpffs: None, sizes }).unwrap();
        let counted = xdp.memory().unwrap();
        for (name, reckoned) in sizes.footprint(possible_cpus()) {
            let found = counted.iter().find(|map| map.name == name);
            let counted = found.unwrap_or_else(|| panic!("no map {name}")).bytes;
            let difference = counted.abs_diff(reckoned);
            assert!(
                difference <= 4096 + counted / 50,
                "{name}: {reckoned} bytes were reckoned, and the kernel counts {counted}"
            );
        }
        // Maps that are in no list are small.
        let all: u64 = counted.iter().map(|map| map.bytes).sum();
        let reckoned: u64 = sizes.footprint(possible_cpus()).iter().map(|m| m.1).sum();
        assert!(all.abs_diff(reckoned) < 1 << 17, "{all} and {reckoned}");
    }
}

/// Checks the total memory: tables are allocated in advance, so a hundred services with a hundred
/// backends each take no more than an empty configuration.
#[test]
fn without_nat_sixty_six_mib_are_enough() {
    let xdp = Xdp::open(&OpenOptions {
        bpffs: None,
        sizes: NO_NAT,
    })
    .unwrap();
    let counted = xdp.memory().unwrap();
    let all: u64 = counted.iter().map(|map| map.bytes).sum();
    assert!(all <= 66 << 20, "{all} bytes: {counted:#?}");
}

fn flow(number: u16) -> (FlowKey, NatForward, FlowKey, NatReverse) {
    let forward_key = FlowKey {
        source_port: number,
        family: 4,
        ..FlowKey::default()
    };
    let reverse_key = FlowKey {
        destination_port: number,
        family: 4,
        ..FlowKey::default()
    };
    let forward = NatForward {
        source_port: number,
        ..NatForward::default()
    };
    let reverse = NatReverse {
        client_port: number,
        ..NatReverse::default()
    };
    (forward_key, forward, reverse_key, reverse)
}

#[test]
fn flows_are_copied_to_a_table_of_another_size() {
    const FLOWS: u16 = 3000;
    let bpffs = Bpffs::mount().unwrap();
    let pins = Pins::new(bpffs.path());
    {
        let small = Sizes::of_each(8192);
        let mut xdp = Xdp::open(&options(bpffs.path(), small)).unwrap();
        for number in 0..FLOWS {
            let (forward_key, forward, reverse_key, reverse) = flow(number);
            let maps = xdp.maps();
            maps.add_nat_flow(&forward_key, &forward, &reverse_key, &reverse)
                .unwrap();
        }
    }
    // A failure before the program is attached leaves the table unchanged.
    let large = Sizes::of_each(20_000);
    drop(Xdp::open(&options(bpffs.path(), large)).unwrap());
    let before = || fs::read_dir(bpffs.path().join("steer")).unwrap().count();
    assert_eq!((before(), Pins::new(bpffs.path())), (1, pins.clone()));
    // So does a table without room for all flows.
    let error = Xdp::open(&options(bpffs.path(), Sizes::of_each(1024))).map(drop);
    let error = format!("{:#}", error.unwrap_err());
    assert!(
        error.contains("NAT_") && error.contains("[limits]"),
        "{error}"
    );
    assert_eq!((before(), Pins::new(bpffs.path())), (1, pins.clone()));
    let mut xdp = Xdp::open(&options(bpffs.path(), large)).unwrap();
    assert!(xdp.adopted());
    assert_eq!(before(), 2);
    xdp.settle().unwrap();
    assert_eq!(before(), 1);
    assert_ne!(Pins::new(bpffs.path()), pins);
    for number in 0..FLOWS {
        let (forward_key, forward, reverse_key, reverse) = flow(number);
        assert_eq!(xdp.maps().nat_forward(&forward_key), Some(forward));
        assert_eq!(xdp.maps().nat_reverse(&reverse_key), Some(reverse));
    }
    let memory = xdp.memory().unwrap();
    let table = memory.iter().find(|map| map.name == maps::NAT_FORWARD);
    assert_eq!(table.unwrap().entries, 20_000);
}

/// Checks that arrays of programs are removed: each load of the programs has its own array, and the
/// previous ones are removed after use.
#[test]
fn arrays_of_programs_do_not_pile_up() {
    let bpffs = Bpffs::mount().unwrap();
    for _ in 0..3 {
        let mut xdp = Xdp::open(&options(bpffs.path(), Sizes::of_each(1024))).unwrap();
        xdp.settle().unwrap();
    }
    let folder = Pins::new(bpffs.path()).map(maps::CONFIG);
    let names = fs::read_dir(folder.parent().unwrap()).unwrap().flatten();
    let arrays = names.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("PROGRAMS")
    });
    assert_eq!(arrays.count(), 1);
}
