//! `steer doctor` in healthy and in deliberately broken network namespaces; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;
use steer_tests::{bpffs::Bpffs, fleet::binary, netns::Namespace};
use tempfile::TempDir;

/// A node with two interfaces, and a backend behind the second one.
struct Host {
    node: Namespace,
    backend: Namespace,
    bpffs: Bpffs,
    folder: TempDir,
}

impl Host {
    fn new(xdp_mode: &str) -> Self {
        let host = Self {
            node: Namespace::create("doctor").unwrap(),
            backend: Namespace::create("patient").unwrap(),
            bpffs: Bpffs::mount().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        let run = |command: &str| host.run(command);
        run("ip link add eth0 type veth peer name far0");
        run(&format!(
            "ip link add eth1 type veth peer name eth0 netns {}",
            host.backend.name()
        ));
        for (interface, address) in [("eth0", "10.1.0.1/24"), ("eth1", "10.2.0.1/24")] {
            run(&format!("ip addr add {address} dev {interface}"));
            run(&format!("ip link set {interface} up mtu 1500"));
            host.node
                .sysctl(&format!("net.ipv4.conf.{interface}.forwarding"), "1")
                .unwrap();
            host.node
                .sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "2")
                .unwrap();
            run(&format!("ethtool -K {interface} gro off"));
        }
        run("ip link set far0 up");
        run("ethtool -K far0 tso off gso off");
        run("ip link set eth1 mtu 1600");
        host.node
            .sysctl("net.ipv4.conf.all.rp_filter", "0")
            .unwrap();
        for command in [
            "ip addr add 10.2.0.2/24 dev eth0",
            "ip link set eth0 up mtu 1600",
        ] {
            host.backend
                .run(&command.split(' ').collect::<Vec<_>>())
                .unwrap();
        }
        let config = format!(
            "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\n\
             xdp_mode = \"{xdp_mode}\"\nbpffs = \"{}\"\nstate_dir = \"{}\"\nsocket = \"{}\"\n\
             [encap]\nsources = [\"10.2.0.1\"]\n\
             [[backend]]\nname = \"b1\"\naddress = \"10.2.0.2\"\nmode = \"ipip\"\n\
             [[pool]]\nname = \"all\"\nbackends = [\"b1\"]\n\
             [[service]]\nname = \"chat\"\naddress = \"192.0.2.1\"\nport = 80\npools = [\"all\"]\n",
            host.bpffs.path().display(),
            host.folder.path().join("state").display(),
            host.folder.path().join("sock").display(),
        );
        fs::write(host.folder.path().join("steer.toml"), config).unwrap();
        host
    }

    fn run(&self, command: &str) {
        self.node
            .run(&command.split(' ').collect::<Vec<_>>())
            .unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.node.path()))
            .arg("--")
            .arg(binary("steer").unwrap())
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path().join("steer.toml"));
        command
    }

    /// Returns the doctor's findings: severities, subjects and commands; and its exit code.
    fn doctor(&self) -> (BTreeSet<(String, String, String)>, Option<i32>) {
        let output = self.command(&["doctor", "--json"]).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings = answer["findings"].as_array().unwrap();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or("").to_owned();
        let found = findings
            .iter()
            .map(|f| (text(f, "severity"), text(f, "subject"), text(f, "fix")));
        (found.collect(), output.status.code())
    }

    /// Returns the findings that are not in `before`.
    fn news(&self, before: &BTreeSet<(String, String, String)>) -> Vec<[String; 3]> {
        let (now, _) = self.doctor();
        let gone: Vec<_> = before.difference(&now).collect();
        assert!(gone.is_empty(), "{gone:?}");
        let new = now.difference(before).cloned();
        new.map(|(severity, subject, fix)| [severity, subject, fix])
            .collect()
    }
}

#[test]
fn a_host_that_is_broken_gives_exactly_these_findings_and_their_commands_mend_it() {
    let host = Host::new("generic");
    // Findings about the machine itself, like its clock, are independent of the namespace.
    let (before, code) = host.doctor();
    assert_eq!(code, Some(0), "{before:?}");
    let of_host = before.iter().filter(|(_, subject, _)| {
        subject.contains("eth") || subject.contains("b1") || subject.contains("bpf")
    });
    assert_eq!(of_host.count(), 0, "{before:?}");

    host.node
        .sysctl("net.ipv4.conf.eth0.rp_filter", "1")
        .unwrap();
    host.run("ethtool -K eth0 gro on");
    host.run("ip link set eth1 mtu 1500");
    host.node
        .sysctl("net.ipv4.conf.eth0.forwarding", "0")
        .unwrap();
    host.run("ip addr add 10.3.0.1/24 dev far0");
    let found = host.news(&before);
    let found: Vec<[&str; 3]> = found
        .iter()
        .map(|f| f.each_ref().map(String::as_str))
        .collect();
    assert_eq!(
        found,
        [
            ["fatal", "interface eth0", "ethtool -K eth0 gro off"],
            [
                "note",
                "net.ipv4.conf.eth0.forwarding",
                "sysctl -w net.ipv4.conf.eth0.forwarding=1"
            ],
            ["warning", "backends b1", ""],
            [
                "warning",
                "net.ipv4.conf.eth0.rp_filter",
                "sysctl -w net.ipv4.conf.eth0.rp_filter=2"
            ],
        ]
    );
    for [_, _, fix] in found.iter().filter(|[_, _, fix]| !fix.is_empty()) {
        host.run(fix);
    }
    host.run("ip link set eth1 mtu 1600");
    assert_eq!(host.news(&before), [[""; 3]; 0]);

    // A neighbour that does not answer.
    host.backend
        .run(&["ip", "link", "set", "eth0", "down"])
        .unwrap();
    host.run("ip neigh flush all");
    let found = host.news(&before);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0][1], "backend b1");
}

#[test]
fn traps_of_the_way_back_are_found_with_what_mends_them() {
    let host = Host::new("native");
    let path = host.folder.path().join("steer.toml");
    let direct = fs::read_to_string(&path).unwrap();
    let (before, _) = host.doctor();

    // This node has the VIP, and is the gateway of a direct-return backend.
    host.run("ip addr add 192.0.2.1/32 dev lo");
    let found = host.news(&before);
    let fix = "ip addr del 192.0.2.1/32 dev lo";
    assert_eq!(found, [["warning", "service chat", fix].map(str::to_owned)]);
    host.run("sysctl -qw net.ipv4.conf.eth1.accept_local=1");
    assert_eq!(host.news(&before), [[""; 3]; 0]);
    host.run("sysctl -qw net.ipv4.conf.eth1.accept_local=0");
    host.run(fix);
    assert_eq!(host.news(&before), [[""; 3]; 0]);

    // Answers arrive on an interface without the program.
    let nat = direct
        .replace("[encap]\nsources", "[nat]\naddresses")
        .replace("10.2.0.1", "10.8.0.1")
        .replace("ipip", "nat");
    fs::write(&path, &nat).unwrap();
    let found = host.news(&before);
    assert_eq!(
        found,
        [["warning", "[node] interfaces", ""].map(str::to_owned)]
    );
    fs::write(&path, nat.replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]")).unwrap();
    let (after, _) = host.doctor();
    assert!(
        !after
            .iter()
            .any(|(_, subject, _)| subject == "[node] interfaces"),
        "{after:?}"
    );
}

#[test]
fn what_is_fatal_keeps_a_daemon_from_starting_with_the_same_words() {
    let host = Host::new("native");
    let (before, code) = host.doctor();
    assert_eq!(code, Some(0), "{before:?}");
    let path = host.folder.path().join("steer.toml");
    let text = fs::read_to_string(&path).unwrap();
    let bpffs = host.bpffs.path().display().to_string();
    let other = host.folder.path().display().to_string();
    fs::write(
        &path,
        text.replace(
            &format!("bpffs = \"{bpffs}\""),
            &format!("bpffs = \"{other}\""),
        ),
    )
    .unwrap();
    let found = host.news(&before);
    let fix = format!("mount -t bpf bpf {other}");
    assert_eq!(found, [["fatal", &other, &fix].map(str::to_owned)]);
    assert_eq!(host.doctor().1, Some(1));
    let output = host.command(&["run"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("{other}: it is not a BPF file system; `{fix}`")),
        "{said}"
    );
    // Nothing was attached, and no socket is left.
    let links = host.node.run(&["ip", "-d", "link"]).unwrap();
    assert!(!links.contains("prog/xdp"), "{links}");
    assert!(!host.folder.path().join("sock").exists());
}
