//! Pins that stay when the daemon exits, and their reuse; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{fs, path::Path};

use aya::maps::{Array, MapData};
use steer_common::abi::{Member, MemberState, maps};
use steer_core::dataplane::SteeringTables as _;
use steer_dataplane::{OpenOptions, PinLock, Pins, Xdp};
use steer_tests::{bpffs::Bpffs, netns::Namespace, veth::End, veth::Veth};

fn options(bpffs: &Path) -> OpenOptions {
    OpenOptions {
        bpffs: Some(bpffs.to_owned()),
        ..OpenOptions::default()
    }
}

/// Creates a node with one interface, and the namespace at its other end.
fn node() -> (Namespace, Namespace) {
    let [node, peer] = ["node", "peer"].map(|name| Namespace::create(name).unwrap());
    let end = |namespace, name, mac| End {
        namespace,
        name,
        mac,
        addresses: &[],
        gro: false,
    };
    Veth::between(
        end(&node, "eth0", "02:00:00:00:00:01"),
        end(&peer, "eth0", "02:00:00:00:00:02"),
    )
    .unwrap();
    (node, peer)
}

fn attached(node: &Namespace) -> Option<String> {
    let links = node.run(&["ip", "-d", "link", "show", "eth0"]).unwrap();
    let words: Vec<&str> = links.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "prog/xdp")?;
    Some(words[at + 2].to_owned())
}

#[test]
fn program_and_maps_outlive_the_process_and_are_taken_up() {
    let (node, _peer) = node();
    let bpffs = Bpffs::mount().unwrap();
    let first = node
        .enter(|| {
            let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
            assert!(!xdp.adopted());
            let member = Member {
                state: MemberState::Up as u8,
                port: 4711,
                ..Member::default()
            };
            xdp.maps().set_member(7, &member);
            xdp.attach("eth0", false).unwrap();
        })
        .map(|()| attached(&node))
        .unwrap();
    assert!(first.is_some(), "the program went with its loader");
    node.enter(|| {
        let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
        assert!(xdp.adopted());
        assert_eq!(xdp.maps().member(7).port, 4711);
        assert_eq!(xdp.interfaces(), ["eth0"]);
        xdp.attach("eth0", false).unwrap();
    })
    .unwrap();
    let second = attached(&node);
    assert!(second.is_some() && second != first, "{first:?} {second:?}");

    let pins = Pins::new(bpffs.path());
    pins.remove().unwrap();
    assert_eq!(attached(&node), None);
    assert!(!bpffs.path().join("steer").exists());
    // Nothing to remove is no error.
    pins.remove().unwrap();
}

#[test]
fn a_map_of_another_shape_is_refused_and_left() {
    let (node, _peer) = node();
    let bpffs = Bpffs::mount().unwrap();
    node.enter(|| {
        let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
        xdp.attach("eth0", false).unwrap();
    })
    .unwrap();
    let before = attached(&node);
    let path = Pins::new(bpffs.path()).map(maps::MEMBERS);
    fs::remove_file(&path).unwrap();
    let other: Array<MapData, u64> = Array::create(16, 0).unwrap();
    other.pin(&path).unwrap();
    let error = node
        .enter(|| Xdp::open(&options(bpffs.path())).err())
        .unwrap()
        .expect("a map of 16 words was taken for the members");
    let text = format!("{error:#}");
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains("steer detach"), "{text}");
    assert_eq!(attached(&node), before);
    assert!(path.exists());
}

#[test]
fn pins_of_a_version_that_does_not_say_what_they_are_like_are_refused_and_left() {
    let bpffs = Bpffs::mount().unwrap();
    let other = bpffs.path().join("steer/v9999/maps");
    fs::create_dir_all(&other).unwrap();
    let map: Array<MapData, u64> = Array::create(16, 0).unwrap();
    map.pin(other.join(maps::CONFIG)).unwrap();
    let error = Xdp::open(&options(bpffs.path())).err().unwrap();
    assert!(format!("{error:#}").contains("v9999"), "{error:#}");
    assert!(other.join(maps::CONFIG).exists());
    assert!(!Pins::new(bpffs.path()).map(maps::CONFIG).exists());
}

#[test]
fn a_folder_that_is_no_bpffs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Xdp::open(&options(folder.path())).err().unwrap();
    assert!(format!("{error:#}").contains("mount -t bpf"), "{error:#}");
}

#[test]
fn an_interface_that_is_taken_or_absent_is_named() {
    let (node, _peer) = node();
    let [ours, theirs] = [Bpffs::mount().unwrap(), Bpffs::mount().unwrap()];
    node.enter(|| {
        let mut first = Xdp::open(&options(theirs.path())).unwrap();
        first.attach("eth0", false).unwrap();
        let mut second = Xdp::open(&options(ours.path())).unwrap();
        let error = format!("{:#}", second.attach("eth0", false).unwrap_err());
        assert!(error.contains("eth0"), "{error}");
        assert!(error.contains("another XDP program"), "{error}");
        assert!(error.contains("\"steer_main\""), "{error}");
        assert!(error.contains("ip link set dev eth0 xdp off"), "{error}");
        let error = format!("{:#}", second.attach("absent", false).unwrap_err());
        assert!(error.contains("absent"), "{error}");
    })
    .unwrap();
}

#[test]
fn an_interface_that_came_back_is_attached_to_anew() {
    let (node, _peer) = node();
    let bpffs = Bpffs::mount().unwrap();
    let attach = || {
        node.enter(|| {
            let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
            xdp.attach("eth0", false).unwrap();
        })
        .unwrap();
    };
    attach();
    node.run(&["ip", "link", "del", "eth0"]).unwrap();
    node.run(&[
        "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other",
    ])
    .unwrap();
    attach();
    assert!(attached(&node).is_some());
}

#[test]
fn pins_are_used_by_one_at_a_time_by_whatever_path() {
    let (node, _peer) = node();
    let bpffs = Bpffs::mount().unwrap();
    let mut first = node
        .enter(|| {
            let mut xdp = Xdp::open(&options(bpffs.path())).unwrap();
            xdp.attach("eth0", false).unwrap();
            xdp
        })
        .unwrap();
    let program = attached(&node);
    // The service manager binds the folder to another path like this.
    let bound = tempfile::tempdir().unwrap();
    let steer = bound.path().join("steer");
    fs::create_dir(&steer).unwrap();
    let [from, to] = [bpffs.path().join("steer"), steer].map(|path| path.display().to_string());

    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .status();
        assert!(done.unwrap().success(), "{arguments:?}");
    };
    mount(&["mount", "--bind", &from, &to]);
    for path in [bpffs.path(), bound.path()] {
        let error = node
            .enter(|| Xdp::open(&options(path)).err())
            .unwrap()
            .expect("two had the pins at once");
        let text = format!("{error:#}");
        assert!(text.contains("another daemon uses these pins"), "{text}");
    }
    mount(&["umount", "-l", &to]);
    assert_eq!(attached(&node), program);
    assert_eq!(first.interfaces(), ["eth0"]);
    first.settle().unwrap();
    drop(first);
    drop(PinLock::acquire(bpffs.path()).unwrap());
}
