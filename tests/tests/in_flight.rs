//! Wrong counts of open connections, as after a crash between two writes; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{fs, net::TcpStream, path::PathBuf, time::Duration};

use aya::maps::{Array, Map, MapData};
use steer_common::abi::maps;
use steer_dataplane::Pins;
use steer_tests::fleet::{Fleet, HTTP, Plan, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// Returns the kernel's counts.
fn counts(path: &PathBuf) -> Array<MapData, u64> {
    let map = Map::Array(MapData::from_pin(path).unwrap());
    map.try_into().unwrap()
}

#[test]
fn a_sweep_puts_counts_in_flight_right_that_are_too_high_or_too_low() {
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    let mode = "mode = \"nat\"\n";
    let limited = fleet
        .config()
        .replace(mode, &format!("{mode}max_in_flight = 100\n"));
    fs::write(fleet.config_path(), limited).unwrap();
    fleet.start().unwrap();
    fleet.cli(&["tune", "set", "gc.interval", "1s"]).unwrap();

    let vip = fleet.vip();
    let connect = || TcpStream::connect_timeout(&(vip, HTTP).into(), LIMIT).unwrap();
    let mut open: Vec<TcpStream> = fleet
        .site
        .client
        .enter(|| (0..3).map(|_| connect()).collect())
        .unwrap();
    let path = Pins::new(fleet.bpffs()).map(maps::IN_FLIGHT);
    let mut map = counts(&path);
    let counted: Vec<(u32, u64)> = (0..map.len())
        .map(|member| (member, map.get(&member, 0).unwrap()))
        .filter(|(_, count)| *count != 0)
        .collect();
    let [(member, 3)] = counted[..] else {
        panic!("{counted:?}")
    };

    let mut becomes = |fleet: &Fleet, wrong: i64, right: u64| {
        map.set(member, wrong.cast_unsigned(), 0).unwrap();
        wait(LIMIT, &format!("{wrong} is {right}"), || {
            fleet.status()?;
            Ok(map.get(&member, 0)? == right)
        })
        .unwrap();
    };
    for wrong in [7, 1, 0, -2, 1000] {
        becomes(&fleet, wrong, 3);
    }
    // A connection that ended meanwhile is no longer counted, and not found by the recount.
    drop(open.pop());
    wait(LIMIT, "one has ended", || {
        Ok(counts(&path).get(&member, 0)? == 2)
    })
    .unwrap();
    becomes(&fleet, 3, 2);

    fleet.kill_daemon();
    counts(&path).set(member, 5, 0).unwrap();
    fleet.start().unwrap();
    wait(LIMIT, "the next daemon puts it right", || {
        Ok(counts(&path).get(&member, 0)? == 2)
    })
    .unwrap();
    drop(open);
    wait(LIMIT, "all have ended", || {
        Ok(counts(&path).get(&member, 0)? == 0)
    })
    .unwrap();
}
