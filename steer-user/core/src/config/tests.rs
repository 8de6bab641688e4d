use std::net::Ipv4Addr;
use std::path::Path;

use super::bad::BAD;
use super::*;

const EXAMPLE: &str = include_str!("../../../../deploy/steer.toml");

/// Valid document whose line numbers the tests use.
const GOOD: &str = r#"[node]
name = "n1"
region = "eu"
interfaces = ["eth0"]
[nat]
addresses = ["10.0.0.1"]
ports = "1000-2000"
[encap]
sources = ["10.0.0.1"]
[probe]
timeout = "300ms"
rise = 3
ca = "/ca.pem"
cert = "/n1.pem"
key = "/n1.key"
[[backend]]
name = "b1"
address = "10.0.1.1"
mode = "nat"
port = 8000
beacon = "10.0.1.1:7100"
[[backend]]
name = "b2"
address = "10.0.1.2"
mode = "ipip"
capacity = 3
region = "us"
[[pool]]
name = "p1"
backends = ["b1", "b2"]
[[service]]
name = "s1"
address = "192.0.2.1"
port = 80
pools = ["p1"]
idle_timeout = "1m"
"#;

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(text, Path::new("f.toml")).map_err(|e| match e {
        ConfigError::Invalid { problems, .. } => problems,
        ConfigError::Stopped | ConfigError::Read { .. } => unreachable!("nothing is read"),
    })
}

fn lines(text: &str) -> Vec<String> {
    let problems = parse(text).map(|_| ()).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_holds() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.services[0].pools, [0, 1]);
    assert_eq!(config.backends[0].region, "eu-west");
    assert_eq!(config.members(&config.services[0]), [0, 1, 2]);
    assert_eq!(config.probe.interval, Duration::from_millis(100));
}

/// Checks that the defaults in the example are the real ones.
#[test]
fn the_example_tells_the_defaults() {
    let spelled: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split('#').next().unwrap().contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(spelled, EXAMPLE);
    assert_eq!(parse(&spelled).unwrap(), parse(EXAMPLE).unwrap());
}

#[test]
fn a_document_becomes_what_it_says() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.nat.ports, 1000..=2000);
    assert_eq!(
        config.encap.v4.map(|outer| (outer.address, outer.bits)),
        Some((Ipv4Addr::new(10, 0, 0, 1).into(), 0))
    );
    assert_eq!((config.probe.rise, config.probe.fall), (3, 2));
    assert_eq!(config.backends[0].mode, Mode::Nat);
    assert_eq!(config.backends[0].port, Some(8000));
    assert_eq!(config.backends[1].mode, Mode::Ipip);
    assert_eq!(config.backends[1].capacity, 3);
    assert_eq!(config.pools[0].backends, [0, 1]);
    let service = &config.services[0];
    assert_eq!((service.port, service.protocol), (80, Protocol::Tcp));
    assert_eq!(service.idle_timeout, Duration::from_secs(60));
    assert_eq!(service.open_flows, OpenFlows::Reset);
}

#[test]
fn sources_of_datagrams_under_nat_are_limited_unless_told_otherwise() {
    let limit = |keys: &str| {
        let text = GOOD.replace("port = 80\n", &format!("port = 80\n{keys}\n"));
        let limit = parse(&text).unwrap().services[0].source_flows;
        limit.map(|limit| (limit.per_second, limit.burst))
    };
    assert_eq!(limit("protocol = \"tcp\""), None);
    assert_eq!(limit("protocol = \"udp\""), Some((1000, 2000)));
    assert_eq!(limit("protocol = \"udp\"\nquic = true"), None);
    let own = |rate: u32| {
        limit(&format!(
            "protocol = \"udp\"\nsource_flows_per_second = {rate}"
        ))
    };
    assert_eq!(own(7), Some((7, 7)));
    assert_eq!(own(0), None);
}

#[test]
fn a_class_has_what_it_leaves_out_from_its_service() {
    let service = GOOD.replace(
        "idle_timeout",
        "end = \"drop\"\nregions = [\"us\"]\nnew_flows_per_second = 7\nidle_timeout",
    );
    let first =
        "[[class]]\nname = \"a\"\nservice = \"s1\"\nsources = [\"10.0.0.0/8\"]\npools = [\"p1\"]\n";
    let second = "[[class]]\nname = \"b\"\nservice = \"s1\"\nsources = [\"10.0.0.0/8\", \"10.9.0.1\"]\n\
                  dscp = [46, 10, 46]\npools = [\"p1\"]\nend = \"reject\"\nregions = [\"eu\"]\n\
                  new_flows_per_second = 3\nnew_flows_burst = 2\n";
    let config = parse(&format!("{service}{first}{second}")).unwrap();
    let ids = config.policy_ids();
    let names: Vec<_> = ids.iter().map(|id| config.policy(*id).name()).collect();
    assert_eq!(names, ["s1", "s1/a", "s1/b"]);
    let [own, a, b] = ids[..] else {
        panic!("{ids:?}");
    };
    let [own, a, b] = [own, a, b].map(|id| config.policy(id));
    assert_eq!(
        (a.end, a.regions, a.new_flows),
        (own.end, own.regions, own.new_flows)
    );
    assert_eq!((own.end, b.end), (End::Drop, End::Reject));
    assert_eq!(b.regions, Some(&["eu".to_owned()][..]));
    assert_eq!(b.new_flows.map(|n| (n.per_second, n.burst)), Some((3, 2)));
    let class = b.class.unwrap();
    assert_eq!(class.dscp, [10, 46]);
    assert_eq!(class.sources[1], (Ipv4Addr::new(10, 9, 0, 1).into(), 32));
    let client = Ipv4Addr::new(10, 9, 0, 1).into();
    assert_eq!(
        class.because(client, 46),
        "10.9.0.1 is in 10.9.0.1/32, and the DSCP is 46"
    );
    assert_ne!(class.hash(), a.class.unwrap().hash());
}

#[test]
fn each_mistake_is_told_with_its_line() {
    let mut wrong = Vec::new();
    for (from, to, line, says) in BAD {
        assert!(GOOD.contains(from), "{from:?} is not in the document");
        let found = lines(&GOOD.replacen(from, to, 1));
        let start = format!("{line}: ");
        let is_found = |s: &String| s.starts_with(&start) && s.contains(says);
        if !found.iter().any(is_found) {
            wrong.push(format!("{to:?} at {line}, {says:?}: {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn two_services_of_one_vip_are_refused() {
    let twin = "[[service]]\nname = \"s2\"\naddress = \"192.0.2.1\"\nport = 80\npools = [\"p1\"]\n";
    let said = lines(&format!("{GOOD}{twin}"));
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("39: service \"s2\" has the address"),
        "{said:?}"
    );
    let same_name = twin.replace("s2", "s1").replace("port = 80", "port = 81");
    assert!(lines(&format!("{GOOD}{same_name}"))[0].starts_with("38: two services"));
    parse(&format!("{GOOD}{twin}protocol = \"udp\"\n")).unwrap();
}

#[test]
fn all_mistakes_come_at_once() {
    let text = GOOD
        .replace("rise = 3", "rise = 0")
        .replace("\"10.0.1.2\"", "\"10.0.1\"")
        .replace("[\"p1\"]", "[\"p9\"]")
        .replace("region = \"us\"", "colour = \"red\"")
        .replace("\"eth0\"", "\"\"");
    let said = lines(&text);
    let starts = ["4: ", "12: ", "27: ", "35: "];
    assert_eq!(said.len(), starts.len(), "{said:#?}");
    assert!(
        said.iter()
            .zip(starts)
            .all(|(s, start)| s.starts_with(start)),
        "{said:#?}"
    );
}

#[test]
fn a_broken_thing_is_not_reported_at_its_references() {
    let said = lines(&GOOD.replace("\"10.0.1.2\"", "\"10.0.1\""));
    assert_eq!(said.len(), 1, "{said:#?}");
    let said = lines(&GOOD.replace("capacity = 3", "capacity = \"3\""));
    assert_eq!(said.len(), 1, "{said:#?}");
}

#[test]
fn what_does_not_fit_into_the_maps_is_refused() {
    let mut text = GOOD.to_owned();
    for i in 0..4096 {
        let address = Ipv4Addr::from(0x0a80_0000 + i);
        text += &format!(
            "[[service]]\nname = \"x{i}\"\naddress = \"{address}\"\nport = 80\npools = [\"p1\"]\n"
        );
    }
    let said = lines(&text);
    assert!(
        said[0].starts_with("31: 8197 services and their addresses"),
        "{said:?}"
    );
    let many: Vec<_> = (0..65).map(|i| format!("\"10.7.0.{i}\"")).collect();
    let sources = format!("addresses = [{}]", many.join(", "));
    let said = lines(&GOOD.replace("addresses = [\"10.0.0.1\"]", &sources));
    assert!(said[0].starts_with("6: more than 64 addresses"), "{said:?}");
}

#[test]
fn messages_begin_with_the_file() {
    let error = Config::parse("[node", Path::new("/etc/steer.toml")).unwrap_err();
    assert!(
        error.to_string().starts_with("/etc/steer.toml:1: "),
        "{error}"
    );
    let error = Config::load(Path::new("/nowhere/steer.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/steer.toml: No such file"),
        "{error}"
    );
}

/// First bytes of the output of `printf b2 | sha256sum`.
const SHA256_OF_B2: [u8; 4] = [0x48, 0x14, 0xd9, 0x20];

/// Parses the valid document with a QUIC service and these server ids.
fn quic(ids: [&str; 2]) -> Result<Config, ConfigError> {
    let mut text = GOOD.replace(
        "idle_timeout",
        "protocol = \"udp\"\nquic = true\nidle_timeout",
    );
    for (name, id) in ["b1", "b2"].into_iter().zip(ids) {
        let from = format!("name = \"{name}\"\n");
        text = text.replace(&from, &format!("{from}server_ids = [{id}]\n"));
    }
    Config::parse(&text, Path::new("f"))
}

#[test]
fn server_ids_are_given_or_follow_from_the_name() {
    let config = quic(["\"0a1b2c3d\"", ""]).unwrap();
    assert!(config.services[0].quic);
    let usual = CidLayout {
        key_file: None,
        rotation: 0,
        server_id: 4,
        nonce: 7,
    };
    assert_eq!(config.quic, [usual]);
    assert_eq!(config.backends[0].server_id(4), [0x0a, 0x1b, 0x2c, 0x3d]);
    assert_eq!(config.backends[1].server_id(4), SHA256_OF_B2);
    assert_eq!(config.backends[1].server_id(2), SHA256_OF_B2[..2]);
}

/// Parses the valid document with one host for two backends, and these server ids for its
/// addresses.
fn one_host(ids: [&str; 2]) -> Result<Config, ConfigError> {
    let mut text = GOOD
        .replace(
            "idle_timeout",
            "protocol = \"udp\"\nquic = true\nidle_timeout",
        )
        .replace("address = \"10.0.1.2\"", "address = \"2001:db8::2\"")
        .replace(
            "sources = [\"10.0.0.1\"]",
            "sources = [\"10.0.0.1\", \"2001:db8::1\"]",
        );
    for (name, id) in ["b1", "b2"].into_iter().zip(ids) {
        let from = format!("name = \"{name}\"\n");
        text = text.replace(&from, &format!("{from}server_ids = [{id}]\n"));
    }
    Config::parse(&text, Path::new("f"))
}

#[test]
fn the_addresses_of_one_host_share_a_server_id_that_both_name() {
    let same = "\"0a1b2c3d\"";
    let config = one_host([same, same]).unwrap();
    assert_eq!(
        config.backends[0].server_id(4),
        config.backends[1].server_id(4)
    );
    // A server id that matches the other one by chance does not count.
    let b2 = "\"4814d920\"";
    let said = one_host([b2, ""]).unwrap_err().to_string();
    assert!(said.contains("have the server id 4814d920"), "{said}");
}

#[test]
fn a_key_of_connection_ids_is_named_by_its_file() {
    let with = |key: &str| {
        let quic = format!("[[quic]]\nrotation = 2\nkey_file = \"{key}\"\n[probe]");
        Config::parse(&GOOD.replace("[probe]", &quic), Path::new("f"))
    };
    let config = with("/etc/steer/quic.key").unwrap();
    assert_eq!(
        config.quic[0].key_file.as_deref(),
        Some(Path::new("/etc/steer/quic.key"))
    );
    let said = with("quic.key").unwrap_err().to_string();
    assert!(said.contains("not an absolute path"), "{said}");
}

#[test]
fn two_backends_with_one_server_id_are_refused() {
    let same = "\"0a1b2c3d\"";
    let said = quic([same, same]).unwrap_err().to_string();
    let what = "backends \"b1\" and \"b2\" have the server id 0a1b2c3d of rotation 0; give one";
    assert!(said.contains(what), "{said}");
}
