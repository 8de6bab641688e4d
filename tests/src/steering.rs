//! The data path set up by hand, without a daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use steer_common::abi::{
    Address, Config, Family, Member, MemberState, Mode, NatTimeouts, Service, ServiceKey, Slot,
    member_flags, nat_flags, service_flags,
};
use steer_core::dataplane::SteeringTables as _;
use steer_dataplane::{Device, Neighbours, OpenOptions, Xdp};
use tokio::runtime;

use crate::topology::{Backend, NODE_CLIENT_PORT, Site, VIP_V4, VIP_V6};

/// Addresses of the node that `nat` and `ipip` use as sources.
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
/// IPv6 counterpart of [`SOURCE_V4`].
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1);

/// Loads the program in the site's node, attached to all its interfaces, with one service for TCP
/// and one for UDP on any port of each VIP. All slots lead to the first backend, with the last as
/// second choice; member 1 + i is backend i over IPv4, member 101 + i over IPv6.
pub fn steer(site: &Site, mode: Mode) -> Result<Xdp> {
    site.node.enter(|| {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(set_up(&site.backends, mode))
    })?
}

async fn set_up(backends: &[Backend], mode: Mode) -> Result<Xdp> {
    let mut xdp = Xdp::open(&OpenOptions::default())?;
    let neighbours = Neighbours::new()?;
    let last = backends.len() as u16;
    let maps = xdp.maps();
    maps.set_config(&Config {
        nat_v4: 1,
        nat_v6: 1,
        flow_seed: 1,
        outer_v4: SOURCE_V4.into(),
        outer_v6: SOURCE_V6.into(),
        gue_port: 6080,
        nat_port_first: 20_000,
        nat_port_count: 40_000,
        nat_timeouts: NatTimeouts {
            idle_ticks: 60_000,
            udp_idle_ticks: 60_000,
            unassured_ticks: 30_000,
            udp_unassured_ticks: 30_000,
            closed_ticks: 1000,
        },
        burst_gap_us: 2000,
        nat_unassured_max: 1024,
        nat_retry_ticks: 200,
        nat_flags: nat_flags::VERIFIES_CHECKSUMS,
        ..Config::default()
    });
    maps.set_nat_sources(&[SOURCE_V4.into(), SOURCE_V6.into()])?;
    for (index, backend) in (0..).zip(backends) {
        for (first, address) in [(1, IpAddr::V4(backend.v4)), (101, backend.v6.into())] {
            let hop = resolve(&neighbours, address).await?;
            maps.add_egress_interface(hop.interface)?;
            let member = Member {
                address: address.into(),
                macs: hop.macs,
                mtu: hop.mtu,
                vlan: hop.vlan,
                interface: hop.interface,
                reply_interfaces: hop.reply_interfaces,
                state: MemberState::Up as u8,
                flags: member_flags::RESOLVED,
                mode: mode as u8,
                family: Family::of_ip(&address) as u8,
                backend: index,
                ..Member::default()
            };
            maps.set_member(first + index, &member);
        }
    }
    maps.write_slots(0, &[Slot::owned_by(1, last); 100]);
    maps.write_slots(100, &[Slot::owned_by(101, 100 + last); 100]);
    let mut services = Vec::new();
    for (vip, slots_start) in [(IpAddr::V4(VIP_V4), 0), (VIP_V6.into(), 100)] {
        for protocol in [6, 17] {
            services.push(Service {
                slots_start,
                slots_len: 100,
                flags: service_flags::RESET_OPEN | service_flags::REJECT | has_nat(mode),
                ..service(vip, protocol)
            });
        }
    }
    for address in [IpAddr::V4(SOURCE_V4), SOURCE_V6.into()] {
        for protocol in [6, 17] {
            services.push(Service {
                flags: service_flags::NAT_SOURCE,
                ..service(address, protocol)
            });
        }
    }
    for address in [
        IpAddr::V4(VIP_V4),
        VIP_V6.into(),
        SOURCE_V4.into(),
        SOURCE_V6.into(),
    ] {
        services.push(Service {
            flags: service_flags::ADDRESS | service_flags::ADDRESS_TCP | service_flags::ADDRESS_UDP,
            ..service(address, 0)
        });
    }
    maps.publish(&services)?;
    // Packets arrive on a port of a bond, and answers of `nat` leave on it.
    let client = Device::find(NODE_CLIENT_PORT)?;
    for index in [client.index].into_iter().chain(client.ports) {
        xdp.maps().add_egress_interface(index)?;
    }
    xdp.attach(NODE_CLIENT_PORT, false)?;
    for backend in backends {
        xdp.attach(&backend.node_port, false)?;
    }
    Ok(xdp)
}

async fn resolve(
    neighbours: &Neighbours,
    address: IpAddr,
) -> Result<steer_common::tables::NextHop> {
    let mut changes = neighbours.changes();
    loop {
        if let Some(hop) = neighbours.next_hop(address, &[]).await? {
            return Ok(hop);
        }
        changes
            .changed()
            .await
            .context("the netlink socket closed")?;
    }
}

fn service(address: IpAddr, protocol: u8) -> Service {
    Service {
        key: ServiceKey {
            address: Address::from(address),
            port: 0,
            protocol,
            family: Family::of_ip(&address) as u8,
            class: 0,
        },
        regions: u64::MAX,
        ..Service::default()
    }
}

const fn has_nat(mode: Mode) -> u32 {
    match mode {
        Mode::Nat => service_flags::HAS_NAT,
        Mode::Ipip | Mode::Gue | Mode::L2 => 0,
    }
}
