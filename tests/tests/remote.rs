//! The API over TCP: certificates determine the roles; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    io::Read as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use steer_probe::pki::{self, Identity, IdentityKind, Validity};
use steer_tests::{
    fleet::{Fleet, Plan, binary, wait},
    process::Process,
};

const DAY: Duration = Duration::from_secs(86_400);
const URL: &str = "https://127.0.0.1:9443";

/// Creates a CA with an API's certificate, and those of operators.
fn authority(folder: &Path) {
    pki::init(folder).unwrap();
    let issue = |kind, name: &str, validity, hosts: &[String]| {
        let identity = Identity::new(kind, "home", name).unwrap();
        pki::issue(folder, &identity, validity, hosts).unwrap();
    };
    let valid = Validity::for_next(DAY);
    issue(
        IdentityKind::Api,
        "edge-api",
        valid,
        &["127.0.0.1".to_owned()],
    );
    for name in ["alice", "bob", "carol"] {
        issue(IdentityKind::Operator, name, valid, &[]);
    }
    let past = Validity {
        not_after: valid.not_before + Duration::from_secs(60),
        ..valid
    };
    issue(IdentityKind::Operator, "dave", past, &[]);
    issue(IdentityKind::Node, "edge-two", valid, &[]);
}

fn fleet() -> (Fleet, PathBuf) {
    let mut fleet = Fleet::new(Plan::new(&["one", "two"], "nat")).unwrap();
    let folder = fleet.path("api");
    authority(&folder);
    let place = folder.display();
    let api = format!(
        "\n[api]\nread = [\"cert:bob\"]\nadmin = [\"cert:alice\", \"cert:dave\"]\n\
         listen = \"127.0.0.1:9443\"\ncert = \"{place}/edge-api.pem\"\n\
         key = \"{place}/edge-api.key\"\nca = \"{place}/ca.pem\"\n"
    );
    fs::write(fleet.config_path(), fleet.config() + &api).unwrap();
    fleet.start().unwrap();
    (fleet, folder)
}

/// Returns the arguments for using the API as somebody.
fn with(folder: &Path, name: &str, url: &str) -> Vec<String> {
    let file = |name: &str, end: &str| folder.join(format!("{name}.{end}")).display().to_string();
    let words = [
        ("--api", url.to_owned()),
        ("--api-ca", file("ca", "pem")),
        ("--api-cert", file(name, "pem")),
        ("--api-key", file(name, "key")),
    ];
    let words = words.into_iter();
    words
        .flat_map(|(option, value)| [option.to_owned(), value])
        .collect()
}

fn ask_at(
    fleet: &Fleet,
    (folder, name, url): (&Path, &str, &str),
    what: &[&str],
) -> Result<String, String> {
    let how = with(folder, name, url);
    let how: Vec<&str> = how.iter().map(String::as_str).collect();
    let said = fleet.in_node(&[what, &how].concat());
    said.map_err(|error| format!("{error:#}"))
}

fn ask(fleet: &Fleet, folder: &Path, name: &str, what: &[&str]) -> Result<String, String> {
    ask_at(fleet, (folder, name, URL), what)
}

#[test]
fn certificates_give_roles_and_nothing_else_does() {
    let (fleet, folder) = fleet();
    wait(Duration::from_secs(10), "the API listens", || {
        Ok(ask(&fleet, &folder, "bob", &["status"]).is_ok())
    })
    .unwrap();
    let refused = ask(&fleet, &folder, "bob", &["backend", "drain", "one"]).unwrap_err();
    assert!(refused.contains("exit status: 5"), "{refused}");
    assert!(
        refused.contains("this needs the role operate, but cert:bob"),
        "{refused}"
    );
    ask(&fleet, &folder, "alice", &["backend", "drain", "one"]).unwrap();
    let state = fleet.state().display().to_string();
    let journal = fleet
        .in_node(&["journal", "show", "--state", &state])
        .unwrap();
    assert!(journal.contains("cert:alice (127.0.0.1:"), "{journal}");
    let config = fleet.config_path().display().to_string();
    ask(&fleet, &folder, "alice", &["config", "apply", &config]).unwrap();

    let none = ask(&fleet, &folder, "carol", &["status"]).unwrap_err();
    assert!(
        none.contains("cert:carol") && none.contains("has none"),
        "{none}"
    );
    // A node's certificate is from the same CA, and for another purpose.
    let node = ask(&fleet, &folder, "edge-two", &["status"]).unwrap_err();
    assert!(node.contains("without an operator's certificate"), "{node}");
    let expired = ask(&fleet, &folder, "dave", &["status"]).unwrap_err();
    assert!(
        expired.contains("exit status: 4") && expired.contains("xpired"),
        "{expired}"
    );
    let foreign = fleet.path("foreign");
    authority(&foreign);
    // With the foreign CA the client refuses the server, and with the server's CA the server
    // refuses the client.
    let server = ask(&fleet, &foreign, "alice", &["status"]).unwrap_err();
    assert!(
        server.contains("exit status: 4") && server.contains("certificate"),
        "{server}"
    );
    fs::copy(folder.join("ca.pem"), foreign.join("ca.pem")).unwrap();
    let client = ask(&fleet, &foreign, "alice", &["status"]).unwrap_err();
    assert!(client.contains("exit status: 4"), "{client}");
    let name = ask_at(
        &fleet,
        (&folder, "bob", "https://localhost:9443"),
        &["status"],
    )
    .unwrap_err();
    assert!(
        name.contains("NotValidForName") || name.contains("not valid for name"),
        "{name}"
    );
}

#[test]
fn who_shows_no_certificate_or_nothing_at_all_holds_nobody_up() {
    let (fleet, folder) = fleet();
    let connect = || {
        fleet
            .site
            .node
            .enter(|| TcpStream::connect("127.0.0.1:9443"))
            .unwrap()
    };
    wait(Duration::from_secs(10), "the API listens", || {
        Ok(connect().is_ok())
    })
    .unwrap();
    // Plain HTTP is not a handshake.
    let mut plain = connect().unwrap();
    std::io::Write::write_all(&mut plain, b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // Both an alert and a reset are an answer.
    let _ = plain.read_to_end(&mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");

    let bare = Command::new("openssl").arg("version").output();
    assert!(bare.is_ok(), "this needs openssl");
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "printf 'GET /v1/status HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' | \
         timeout 5 openssl s_client -quiet -connect 127.0.0.1:9443 2>&1; echo end",
    ]);
    let mut bare = fleet.site.node.spawn(command).unwrap();
    let mut said = String::new();
    while let Some(line) = bare
        .read_line()
        .unwrap()
        .filter(|line| line.trim() != "end")
    {
        said += &line;
    }
    assert!(!said.contains("HTTP/1.1 200"), "{said}");
    assert!(said.contains("certificate required"), "{said}");

    // Many silent connections: other TCP clients wait, the socket does not, and the silent ones are
    // closed.
    let begun = Instant::now();
    let idle: Vec<_> = (0..100).map(|_| connect()).collect();
    fleet.cli(&["status"]).unwrap();
    wait(
        Duration::from_secs(60),
        "places come free by themselves",
        || Ok(ask(&fleet, &folder, "bob", &["status"]).is_ok()),
    )
    .unwrap();
    println!("free again after {:?}", begun.elapsed());
    drop(idle);
}

#[test]
fn certificates_are_changed_while_connections_live_on() {
    let (mut fleet, folder) = fleet();
    wait(Duration::from_secs(10), "the API listens", || {
        Ok(ask(&fleet, &folder, "alice", &["status"]).is_ok())
    })
    .unwrap();
    let mut command = Command::new(binary("steer").unwrap());
    command
        .args(["watch", "--json"])
        .args(with(&folder, "bob", URL));
    let mut watch: Process = fleet.site.node.spawn(command).unwrap();
    watch.read_line().unwrap().expect("the end");

    let next = fleet.path("next");
    authority(&next);
    let old = fleet.path("old");
    fs::create_dir(&old).unwrap();
    for file in ["ca.pem", "alice.pem", "alice.key"] {
        fs::copy(folder.join(file), old.join(file)).unwrap();
    }
    let rotate = |file: &str| {
        fs::copy(next.join(file), folder.join("new")).unwrap();
        fs::rename(folder.join("new"), folder.join(file)).unwrap();
    };
    // Half of a pair changes nothing.
    rotate("edge-api.pem");
    fleet.daemon().unwrap().signal(libc::SIGHUP);
    for _ in 0..3 {
        ask(&fleet, &old, "alice", &["status"]).unwrap();
    }
    rotate("edge-api.key");
    rotate("ca.pem");
    fleet.daemon().unwrap().signal(libc::SIGHUP);
    wait(Duration::from_secs(10), "the new ones are in use", || {
        Ok(ask(&fleet, &next, "alice", &["status"]).is_ok())
    })
    .unwrap();
    ask(&fleet, &old, "alice", &["status"]).unwrap_err();

    // The existing watcher sees the change.
    ask(&fleet, &next, "alice", &["backend", "drain", "two"]).unwrap();
    while !watch
        .read_line()
        .unwrap()
        .expect("the end")
        .contains("drained")
    {}

    // The content of the file is in no log, configuration or journal.
    let key = fs::read_to_string(folder.join("edge-api.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let state = fleet.state().display().to_string();
    for said in [
        fleet.cli(&["config", "show"]).unwrap(),
        fleet
            .in_node(&["journal", "show", "--state", &state, "--json"])
            .unwrap(),
        fleet.cli(&["status", "--json"]).unwrap(),
    ] {
        assert!(
            !said.contains(secret) && !said.contains("PRIVATE KEY"),
            "{said}"
        );
    }
}
