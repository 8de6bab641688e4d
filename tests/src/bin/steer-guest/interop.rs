//! Real traffic through the program: a client, the node, and a backend whose own kernel
//! decapsulates.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use steer_common::abi::{Mode, Slot};
use steer_core::dataplane::{SteeringTables as _, TrafficCounters as _};
use steer_dataplane::Xdp;
use steer_tests::{
    echo::Echo,
    netns::Namespace,
    steering::steer,
    topology::{Link, Site, VIP_V4, VIP_V6},
};

use crate::{machine, results::Results};

const PORT: u16 = 8080;
/// Timeout of an answer. Everything is slow here, because the processor is emulated.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Address families of a packet and of its outer headers.
#[derive(Clone, Copy)]
struct Way {
    inner: u8,
    outer: u8,
}

const WAYS: [Way; 4] = [
    Way { inner: 4, outer: 4 },
    Way { inner: 6, outer: 4 },
    Way { inner: 4, outer: 6 },
    Way { inner: 6, outer: 6 },
];

/// Sends traffic through each mode and each kind of link.
pub(crate) fn all(results: &mut Results) -> Result<()> {
    let plain = [Link::Veth, Link::Veth];
    site(results, "", &plain, Mode::Ipip)?;
    site(results, "", &plain, Mode::Gue)?;
    site(results, "", &plain, Mode::L2)?;
    site(results, "", &plain, Mode::Nat)?;
    let tagged = [Link::Vlan(7), Link::Vlan(5)];
    site(results, "VLAN devices, ", &tagged, Mode::Ipip)?;
    site(results, "VLAN devices, ", &tagged, Mode::Nat)?;
    let bonded = [Link::Bond, Link::Bond];
    site(results, "bond devices, ", &bonded, Mode::Ipip)?;
    site(results, "bond devices, ", &bonded, Mode::Nat)?;
    for mode in [Mode::Ipip, Mode::Nat] {
        let names = machine::virtio_devices(4)?;
        let virtio = [0, 2].map(|i| Link::Devices([names[i].clone(), names[i + 1].clone()]));
        site(results, "virtio_net, ", &virtio, mode)?;
    }
    Ok(())
}

/// Creates a site, and sends requests with each combination of families in its mode.
fn site(results: &mut Results, prefix: &str, links: &[Link; 2], mode: Mode) -> Result<()> {
    let kind = match mode {
        Mode::Nat => "nat",
        Mode::Ipip => "ipip",
        Mode::Gue => "gue",
        Mode::L2 => "l2",
    };
    let built = build(links, mode);
    let step = format!("{prefix}{kind}, set up");
    let Some((site, mut xdp, echoes)) = results.tell(&step, built)? else {
        return Ok(());
    };
    for way in WAYS {
        let wraps = matches!(mode, Mode::Ipip | Mode::Gue);
        if !wraps && way.inner != way.outer {
            continue;
        }
        let step = if wraps {
            format!("{prefix}{kind}, {}in{}", way.inner, way.outer)
        } else {
            format!("{prefix}{kind}, IPv{}", way.inner)
        };
        let done = go(&site, &mut xdp, way);
        results.tell(&step, done)?;
    }
    drop((echoes, xdp));
    Ok(())
}

fn build(links: &[Link; 2], mode: Mode) -> Result<(Site, Xdp, Vec<Echo>)> {
    let [client, backend] = links;
    let site = Site::over(client, std::slice::from_ref(backend))?;
    let backend = &site.backends[0];
    backend.add_vips()?;
    tunnels(
        &backend.namespace,
        backend.v4.into(),
        backend.v6.into(),
        mode,
    )?;
    let xdp = steer(&site, mode)?;
    let addresses: [IpAddr; 2] = match mode {
        Mode::Nat => [backend.v4.into(), backend.v6.into()],
        Mode::Ipip | Mode::Gue | Mode::L2 => [VIP_V4.into(), VIP_V6.into()],
    };
    let mut echoes = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(address, PORT);
        echoes.push(Echo::start_in(&backend.namespace, address, "backend0")?);
    }
    Ok((site, xdp, echoes))
}

/// Creates the kernel's own decapsulation devices.
fn tunnels(backend: &Namespace, v4: IpAddr, v6: IpAddr, mode: Mode) -> Result<()> {
    if !matches!(mode, Mode::Ipip | Mode::Gue) {
        return Ok(());
    }
    let (v4, v6) = (v4.to_string(), v6.to_string());
    for (name, kind, local) in [
        ("t4in4", "ipip", &v4),
        ("t6in4", "sit", &v4),
        ("tin6", "ip6tnl", &v6),
    ] {
        let mut command = vec!["ip", "link", "add", name, "type", kind, "local", local];
        if kind == "ip6tnl" {
            command.extend(["mode", "any"]);
        }
        backend.run(&command)?;
        backend.run(&["ip", "link", "set", name, "up"])?;
        backend.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
    }
    if mode == Mode::Gue {
        backend.run(&["ip", "fou", "add", "port", "6080", "gue"])?;
        backend.run(&["ip", "-6", "fou", "add", "port", "6080", "gue"])?;
    }
    Ok(())
}

/// Directs the VIP of one family to the member of another, and sends a request.
fn go(site: &Site, xdp: &mut Xdp, way: Way) -> Result<()> {
    let member = if way.outer == 4 { 1 } else { 101 };
    let (vip, client, start): (IpAddr, IpAddr, u32) = if way.inner == 4 {
        (VIP_V4.into(), site.client_v4().into(), 0)
    } else {
        (VIP_V6.into(), site.client_v6().into(), 100)
    };
    let maps = xdp.maps();
    maps.write_slots(start, &[Slot::owned_by(member, member); 100]);
    let before = maps.counters()?.members[usize::from(member)].packets;
    let asked = ask(&site.client, vip);
    let counters = xdp.maps().counters()?;
    let drops: Vec<_> = counters
        .drops
        .iter()
        .enumerate()
        .filter(|d| *d.1 > 0)
        .collect();
    let count = counters.members[usize::from(member)].packets - before;
    let answer = asked.with_context(|| format!("{count} packets, drops {drops:?}"))?;
    ensure!(answer.starts_with("backend0 "), "the answer was {answer}");
    let direct = answer.contains(&client.to_string());
    let nat = answer.contains("10.98.0.1") || answer.contains("fd98::1");
    ensure!(direct || nat, "the backend saw {answer}");
    // SYN, ACK and the request; the answer may arrive before its ACK is sent.
    ensure!(count >= 3, "{count} packets went through the program");
    Ok(())
}

fn ask(client: &Namespace, vip: IpAddr) -> Result<String> {
    client.enter(|| {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), TIMEOUT).context("connect")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"who")?;
        let mut buffer = [0; 200];
        let len = stream.read(&mut buffer).context("answer")?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })?
}
