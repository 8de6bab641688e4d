//! Typical mistakes in files: each one is reported once, on its line, with its cause and a
//! correction.

use std::fs;
use std::path::Path;

use super::*;

/// Valid document whose line numbers the tests use.
pub(super) const GOOD: &str = r#"[node]
name = "edge-1"
region = "home"
interfaces = ["eth0", "eth1"]
[nat]
addresses = ["10.0.0.11"]
[probe]
interval = "100ms"
ca = "/pki/ca.pem"
cert = "/pki/edge-1.pem"
key = "/pki/edge-1.key"
[[backend]]
name = "gpu-1"
address = "10.0.1.1"
mode = "nat"
port = 8000
capacity = 2
beacon = "10.0.1.1:7100"
[[backend]]
name = "gpu-2"
address = "10.0.2.1"
mode = "nat"
port = 8000
beacon = "10.0.2.1:7100"
[[pool]]
name = "chat"
backends = ["gpu-1", "gpu-2"]
[[service]]
name = "chat"
address = "192.0.2.80"
port = 80
protocol = "tcp"
pools = ["chat"]
[api]
metrics = "127.0.0.1:9464"
"#;

/// A text of the valid document and its replacement; the line, the cause, and the advice.
pub(super) type Wrong = (
    &'static str,
    &'static str,
    usize,
    &'static str,
    &'static str,
);

const WRONG: &[Wrong] = &[
    // Keys and sections.
    (
        "interfaces =",
        "interface =",
        4,
        "unknown key `interface` in [node]",
        "did you mean `interfaces`?",
    ),
    (
        "interfaces =",
        "Interfaces =",
        4,
        "unknown key `Interfaces` in [node]",
        "did you mean `interfaces`?",
    ),
    (
        "region =",
        "regoin =",
        3,
        "unknown key `regoin`",
        "did you mean `region`?",
    ),
    (
        "[[pool]]",
        "[[pools]]",
        25,
        "unknown section `pools`",
        "did you mean [[pool]]?",
    ),
    (
        "[[backend]]",
        "[[backends]]",
        12,
        "unknown section `backends`",
        "did you mean [[backend]]?",
    ),
    (
        "[nat]",
        "[snat]",
        5,
        "unknown section `snat`",
        "did you mean [nat]?",
    ),
    (
        "[api]",
        "[metrics]",
        34,
        "unknown section `metrics`",
        "`metrics` in [api]",
    ),
    (
        "[[service]]",
        "[[frontend]]",
        28,
        "unknown section `frontend`",
        "write [[service]]",
    ),
    (
        "[[pool]]",
        "[pool]",
        25,
        "[pool] is a list",
        "write [[pool]]",
    ),
    (
        "[node]",
        "[[node]]",
        1,
        "[node] has two brackets",
        "one on each side",
    ),
    (
        "capacity = 2",
        "weight = 10",
        17,
        "unknown key `weight` in [[backend]]",
        "write `capacity`",
    ),
    (
        "capacity = 2",
        "maxconn = 10",
        17,
        "unknown key `maxconn`",
        "write `max_in_flight`",
    ),
    (
        "capacity = 2",
        "health_check = \"/health\"",
        17,
        "unknown key `health_check`",
        "write `probes`",
    ),
    (
        "capacity = 2",
        "colour = \"red\"",
        17,
        "unknown key `colour`",
        "its keys are name, address",
    ),
    (
        "port = 80\n",
        "listen = \"192.0.2.80:80\"\n",
        31,
        "unknown key `listen`",
        "write `address` and `port`",
    ),
    (
        "backends = [",
        "members = [",
        27,
        "unknown key `members` in [[pool]]",
        "write `backends`",
    ),
    (
        "region = \"home\"",
        "region = \"home\"\nregion = \"home\"",
        4,
        "`region` is written twice",
        "remove one",
    ),
    (
        "[node]",
        "name = \"x\"\n[node]",
        1,
        "`name` is outside of all sections",
        "move it into its section",
    ),
    (
        "address = \"10.0.1.1\"\n",
        "",
        12,
        "[[backend]] has no key `address`",
        "add it",
    ),
    // Types.
    (
        "port = 80\n",
        "port = \"80\"\n",
        31,
        "`port` is the text \"80\"",
        "without quotes: port = 80",
    ),
    (
        "port = 80\n",
        "port = \"8000-8010\"\n",
        31,
        "`port` is the text \"8000-8010\"",
        "a number from 0 to 65535",
    ),
    (
        "port = 80\n",
        "port = \"http\"\n",
        31,
        "`port` is the text \"http\"",
        "a number from 0 to 65535",
    ),
    (
        "port = 80\n",
        "port = 80000\n",
        31,
        "`port` is 80000",
        "a number from 0 to 65535",
    ),
    (
        "port = 80\n",
        "port = 80.5\n",
        31,
        "`port` is 80.5",
        "a number from 0 to 65535",
    ),
    (
        "port = 80\n",
        "port = [80, 443]\n",
        31,
        "`port` is a list",
        "a number from 0 to 65535",
    ),
    (
        "port = 8000\ncap",
        "port = 0\ncap",
        16,
        "0 is not a port",
        "1 to 65535",
    ),
    (
        "capacity = 2",
        "capacity = -1",
        17,
        "`capacity` is -1",
        "a number from 1 to 1000000",
    ),
    (
        "capacity = 2",
        "capacity = true",
        17,
        "`capacity` is true",
        "a number from 1 to 1000000",
    ),
    (
        "interval =",
        "budget = 99999999999999999999\ninterval =",
        8,
        "`budget` is 99999999999999999999",
        "a number from 10 to 100000",
    ),
    (
        "\"100ms\"",
        "100",
        8,
        "`interval` is 100",
        "a duration in quotes with its unit, like \"100ms\"",
    ),
    (
        "\"100ms\"",
        "0.1",
        8,
        "`interval` is 0.1",
        "a duration in quotes",
    ),
    (
        "\"100ms\"",
        "\"100\"",
        8,
        "\"100\" is not a duration",
        "100ms",
    ),
    (
        "\"100ms\"",
        "\"1 fortnight\"",
        8,
        "is not a duration",
        "100ms",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "\"eth0\"",
        4,
        "`interfaces` is the text \"eth0\"",
        "write a list: interfaces = [\"eth0\"]",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "[\"eth0\"]\nmacs = [\"00:00:5e:00:01\"]",
        5,
        "\"00:00:5e:00:01\" is not a MAC address",
        "00:00:5e:00:01:07",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "[\"eth0\"]\nmacs = [\"01:00:5e:00:00:12\"]",
        5,
        "01:00:5e:00:00:12 is not the address of a single host",
        "00:00:5e:00:01:07",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "[\"eth0\"]\nmacs = [\"02:00:00:00:0A:01\", \"02:00:00:00:0a:01\"]",
        5,
        "02:00:00:00:0a:01 is listed twice",
        "remove one of them",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "[\"eth0\", 1]",
        4,
        "an entry of `interfaces` is 1",
        "write it in quotes: \"1\"",
    ),
    (
        "name = \"chat\"\naddress",
        "name = 7\naddress",
        29,
        "`name` is 7",
        "write it in quotes: name = \"7\"",
    ),
    (
        "protocol = \"tcp\"",
        "quic = \"yes\"",
        32,
        "`quic` is the text \"yes\"",
        "true or false",
    ),
    (
        "capacity = 2",
        "require = 1.5",
        17,
        "`require` is 1.5",
        "all, any, or a number",
    ),
    // Words.
    (
        "\"tcp\"",
        "\"TCP\"",
        32,
        "`protocol` cannot be \"TCP\"",
        "did you mean `tcp`?",
    ),
    (
        "\"tcp\"",
        "\"http\"",
        32,
        "`protocol` cannot be \"http\"",
        "write `tcp`, which carries it",
    ),
    (
        "\"tcp\"",
        "\"quic\"",
        32,
        "`protocol` cannot be \"quic\"",
        "write `udp`, and `quic = true`",
    ),
    (
        "mode = \"nat\"",
        "mode = \"dsr\"",
        15,
        "`mode` cannot be \"dsr\"",
        "`l2` for backends on the same link",
    ),
    (
        "mode = \"nat\"",
        "mode = \"ipp\"",
        15,
        "`mode` cannot be \"ipp\"",
        "did you mean `ipip`?",
    ),
    (
        "mode = \"nat\"",
        "mode = \"wireguard\"",
        15,
        "`mode` cannot be \"wireguard\"",
        "write `nat`, `ipip`, `gue` or `l2`",
    ),
    // Addresses.
    (
        "address = \"10.0.1.1\"",
        "address = \"gpu-1.example.org\"",
        14,
        "\"gpu-1.example.org\" is a host name",
        "`getent hosts gpu-1.example.org`",
    ),
    (
        "address = \"10.0.1.1\"",
        "address = \"10.0.1.1:8000\"",
        14,
        "has a port",
        "write 10.0.1.1, and `port`",
    ),
    (
        "address = \"10.0.1.1\"",
        "address = \"http://10.0.1.1\"",
        14,
        "is a URL",
        "192.0.2.1",
    ),
    (
        "address = \"10.0.1.1\"",
        "address = \"10.0.1.256\"",
        14,
        "\"10.0.1.256\" is not an IP address",
        "192.0.2.1",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"192.0.2.80/32\"",
        30,
        "is a prefix",
        "write 192.0.2.80",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"127.0.0.1\"",
        30,
        "127.0.0.1 is a loopback address",
        "that clients connect to",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"224.0.0.1\"",
        30,
        "224.0.0.1 is a multicast address",
        "192.0.2.1",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"255.255.255.255\"",
        30,
        "is the broadcast address",
        "192.0.2.1",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"0.0.0.0\"",
        30,
        "is the unspecified address",
        "192.0.2.1",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"::ffff:192.0.2.80\"",
        30,
        "IPv4 address in IPv6 notation",
        "write 192.0.2.80",
    ),
    (
        "address = \"192.0.2.80\"",
        "address = \"10.0.1.1\"",
        33,
        "has the service's own address",
        "different addresses",
    ),
    (
        "address = \"10.0.2.1\"",
        "address = \"10.0.1.1\"",
        21,
        "backend \"gpu-2\" has the address and port of \"gpu-1\"",
        "keep one of them",
    ),
    (
        "addresses = [\"10.0.0.11\"]",
        "addresses = [\"10.0.0.300\"]",
        6,
        "\"10.0.0.300\" is not an IP address",
        "192.0.2.1",
    ),
    (
        "\"10.0.1.1:7100\"",
        "\"gpu-1:7100\"",
        18,
        "\"gpu-1\" is a host name",
        "`getent hosts gpu-1`",
    ),
    (
        "\"10.0.1.1:7100\"",
        "\"10.0.1.1\"",
        18,
        "\"10.0.1.1\" has no port",
        "like 10.0.1.1:7100",
    ),
    (
        "\"10.0.1.1:7100\"",
        "\"10.0.1.1:0\"",
        18,
        "0 is not a port",
        "192.0.2.1:7100",
    ),
    (
        "\"127.0.0.1:9464\"",
        "\"9464\"",
        35,
        "\"9464\" is a port without an address",
        "write 127.0.0.1:9464",
    ),
    (
        "\"127.0.0.1:9464\"",
        "\":9464\"",
        35,
        "\":9464\" is a port without an address",
        "0.0.0.0:9464 for all",
    ),
    (
        "\"127.0.0.1:9464\"",
        "\"localhost:9464\"",
        35,
        "\"localhost:9464\" has a host name",
        "write 127.0.0.1:9464",
    ),
    (
        "[\"eth0\", \"eth1\"]",
        "[\"lo\"]",
        4,
        "`lo` is this host's own loopback",
        "name the interface",
    ),
    // Probes.
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"http://10.0.1.1:8000/health\"]",
        18,
        "is not a probe method",
        "write http:8000/health",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"https://10.0.1.1/health\"]",
        18,
        "is not a probe method",
        "write https:443/health",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"/health\"]",
        18,
        "\"/health\" is not a probe method",
        "write http:8000/health",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"tcp\"]",
        18,
        "\"tcp\" is not a probe method",
        "write tcp:8000",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"icmp\"]",
        18,
        "\"icmp\" is not a probe method",
        "write beacon, tcp:8000",
    ),
    // References.
    (
        "[\"gpu-1\", \"gpu-2\"]",
        "[]",
        27,
        "pool \"chat\" has no backend",
        "at least one",
    ),
    (
        "[\"gpu-1\", \"gpu-2\"]",
        "[\"gpx-1\"]",
        27,
        "backend \"gpx-1\", which does not exist",
        "did you mean \"gpu-1\"?",
    ),
    (
        "[\"gpu-1\", \"gpu-2\"]",
        "[\"gpu-7\"]",
        27,
        "backend \"gpu-7\", which does not exist",
        "add a [[backend]]",
    ),
    (
        "pools = [\"chat\"]",
        "pools = [\"caht\"]",
        33,
        "pool \"caht\", which does not exist",
        "did you mean \"chat\"?",
    ),
    // Numbers out of their range.
    (
        "[api]",
        "[balance]\nspill_above = 180\n[api]",
        35,
        "180 is out of range",
        "write 1 to 100",
    ),
    // Syntax.
    (
        "name = \"edge-1\"",
        "name = edge-1",
        2,
        "the text of `name` is not in quotes",
        "\"edge-1\"",
    ),
    (
        "name = \"edge-1\"",
        "name = “edge-1”",
        2,
        "typographic quotes",
        "write \" around",
    ),
    (
        "port = 80\n",
        "port =\n",
        31,
        "`port` has no value",
        "write one behind",
    ),
    (
        "port = 80\n",
        "port = # later\n",
        31,
        "`port` has no value",
        "write one behind",
    ),
    ("[node]", "[node", 1, "unclosed table", "write `]`"),
    ("[nat]", "[nat]\nports = yes", 6, "`ports`", "quotes"),
    // Not a path.
    (
        "\"/pki/ca.pem\"",
        "\"pki/ca.pem\"",
        9,
        "\"pki/ca.pem\" is not an absolute path",
        "/etc/steer",
    ),
];

pub(super) fn lines(text: &str) -> Vec<String> {
    let Err(ConfigError::Invalid { problems }) = Config::parse(text, Path::new("f.toml")) else {
        panic!("nothing is wrong with {text}");
    };
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn each_mistake_is_told_once_with_its_line_its_cause_and_what_to_do() {
    check(WRONG);
}

pub(super) fn check(all: &[Wrong]) {
    Config::parse(GOOD, Path::new("f.toml")).unwrap();
    let mut wrong = Vec::new();
    for (from, to, line, cause, todo) in all {
        assert!(GOOD.contains(from), "{from:?} is not in the document");
        let said = lines(&GOOD.replacen(from, to, 1));
        let [said] = &said[..] else {
            wrong.push(format!("{to:?} is told {} times: {said:#?}", said.len()));
            continue;
        };
        let (what, rest) = said.split_once("; ").unwrap_or((said, ""));
        let is_told =
            said.starts_with(&format!("{line}: ")) && what.contains(cause) && rest.contains(todo);
        // Names of Rust types do not help the reader.
        let words = [
            "u16",
            "u32",
            "i128",
            "invalid",
            "variant",
            "expected",
            "write nothing",
        ];
        if !is_told || words.iter().any(|word| said.contains(word)) {
            wrong.push(format!("{to:?}, {line}, {cause:?}, {todo:?}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn several_mistakes_of_one_section_are_told_at_once() {
    let text = GOOD
        .replacen("interfaces =", "interface =", 1)
        .replacen("mode = \"nat\"", "mode = \"dsr\"", 1)
        .replacen("capacity = 2", "capacity = \"2\"", 1)
        .replacen("\"10.0.2.1\"", "\"gpu2\"", 1)
        .replacen("port = 80\n", "port = \"80\"\n", 1)
        .replacen("\"tcp\"", "\"sctp\"", 1);
    let said = lines(&text);
    let starts: Vec<&str> = said.iter().map(|s| s.split(':').next().unwrap()).collect();
    assert_eq!(starts, ["4", "15", "17", "21", "31", "32"], "{said:#?}");
}

#[test]
fn no_end_of_mistakes_is_told_of_one_section() {
    let many: String = (0..1000).map(|i| format!("zz{i} = 1\n")).collect();
    let said = lines(&GOOD.replacen("[nat]\n", &format!("[nat]\n{many}"), 1));
    assert_eq!(said.len(), 8, "{said:#?}");
}

#[test]
fn files_of_another_kind_are_named_once() {
    for (text, line, kind) in [
        (
            "node:\n  name: edge-1\n  interfaces: [eth0]\nservices:\n  - name: chat\n",
            1,
            "this is YAML",
        ),
        ("# ours\n---\nnode:\n  name: edge-1\n", 2, "this is YAML"),
        ("{\"node\": {\"name\": \"edge-1\"}}", 1, "this is JSON"),
        (
            "<html>\n<body>404</body></html>\n",
            1,
            "this is HTML or XML",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMIGH\n",
            1,
            "this is a certificate or a key",
        ),
        (
            "frontend chat\n  bind :80\n  default_backend gpus\n",
            1,
            "a configuration of HAProxy",
        ),
        ("\0\u{1}\u{2}steer", 1, "this is a binary file"),
    ] {
        let said = lines(text);
        let [said] = &said[..] else {
            panic!("{kind}: {said:#?}");
        };
        let begins = format!("{line}: {kind}");
        assert!(
            said.starts_with(&begins) || said.contains(kind),
            "{kind}: {said}"
        );
        assert!(
            said.contains("steer reads TOML; `steer config example`"),
            "{said}"
        );
    }
    for empty in ["", "\n\n", "# nothing yet\n"] {
        let said = lines(empty);
        assert_eq!(
            said,
            ["1: it is empty; `steer config example` prints a file to begin with"]
        );
    }
}

#[test]
fn bytes_that_are_no_text_have_a_line_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steer.toml");
    for (bytes, says) in [
        (
            &b"[node]\nname = \"gr\xfc\xdf\"\n"[..],
            "steer.toml:2: byte 0xfc is not UTF-8; write TOML, saved as UTF-8",
        ),
        (
            b"\x7fELF\x02\x00\x80",
            "steer.toml:1: this is a binary file; write TOML",
        ),
        (
            b"\xff\xfe[\0n\0o\0",
            "steer.toml:1: the file is UTF-16; write TOML, saved as UTF-8",
        ),
    ] {
        fs::write(&file, bytes).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.ends_with(says) || error.contains(says), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = Config::load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("this is a folder; name the file in it"),
        "{error}"
    );
}

/// Checks that no message shows any part of a variable's value, not even in a suggestion.
#[test]
fn no_part_of_a_variable_is_told() {
    for (from, to, secret) in [
        ("\"10.0.1.1:7100\"", "\"${SECRET}\"", "hunter2:7100"),
        ("\"10.0.1.1:7100\"", "\"${SECRET}\"", "10.77.66.55"),
        ("\"10.0.1.1:7100\"", "\"${SECRET}:0\"", "10.77.66.55"),
        (
            "address = \"10.0.1.1\"",
            "address = \"${SECRET}\"",
            "10.77.66.55/32",
        ),
        (
            "address = \"10.0.1.1\"",
            "address = \"${SECRET}\"",
            "hunter2.example.org",
        ),
        (
            "address = \"192.0.2.80\"",
            "address = \"${SECRET}\"",
            "224.77.66.55",
        ),
        (
            "address = \"192.0.2.80\"",
            "address = \"${SECRET}\"",
            "127.77.66.55",
        ),
        (
            "address = \"192.0.2.80\"",
            "address = \"${SECRET}\"",
            "FF02:0::77",
        ),
        ("\"127.0.0.1:9464\"", "\"${SECRET}\"", "hunter2:9464"),
        ("\"127.0.0.1:9464\"", "\"${SECRET}\"", "7766"),
        (
            "beacon = \"10.0.1.1:7100\"",
            "probes = [\"${SECRET}\"]",
            "http://hunter2:8000/x",
        ),
        (
            "beacon = \"10.0.1.1:7100\"",
            "probes = [\"${SECRET}\"]",
            "/hunter2",
        ),
        ("\"tcp\"", "\"${SECRET}\"", "hunter2"),
        ("\"100ms\"", "\"${SECRET}\"", "hunter2"),
        ("\"100ms\"", "\"${SECRET}\"", "7766m"),
        ("pools = [\"chat\"]", "pools = [\"${SECRET}\"]", "chatt"),
        ("port = 80\n", "port = \"${SECRET}\"\n", "7766"),
    ] {
        let document = Document::single(Path::new("f.toml"), &GOOD.replacen(from, to, 1));
        let variable = |name: &str| (name == "SECRET").then(|| secret.to_owned());
        let error = document.config_with(&variable).unwrap_err().to_string();
        let parts = secret.split([':', '/']).filter(|part| part.len() > 3);
        for part in parts.filter(|part| !["http", "7100", "9464", "8000"].contains(part)) {
            assert!(!error.contains(part), "{part:?} of {to} is in {error}");
        }
        let names = error.contains("SECRET") || error.contains("0 is not a port");
        assert!(names, "{error}");
    }
}
