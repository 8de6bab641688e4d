//! Roles of other users on the API's socket; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use steer_tests::fleet::{Fleet, Plan, binary};

const READER: u32 = 54_321;
const OPERATORS: u32 = 54_322;
const NOBODY: u32 = 54_323;

/// Runs a command as a user: returns its exit code and its errors.
fn ask(fleet: &Fleet, uid: u32, gid: u32, arguments: &[&str]) -> (Option<i32>, String) {
    // A copy that every user may execute, wherever it was built.
    let steer = fleet.path("steer");
    if !steer.exists() {
        // By another process: a child that this one starts at the same time would keep the copy open for writing.
        let copied = Command::new("cp")
            .arg(binary("steer").unwrap())
            .arg(&steer)
            .status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&steer, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let socket = fleet.path("steer.sock").display().to_string();
    let output = Command::new(steer)
        .args(arguments)
        .args(["--socket", &socket])
        .current_dir("/")
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

#[test]
fn roles_go_by_user_and_group_and_change_with_the_configuration() {
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    fleet.start().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(fleet.path(""), open).unwrap();
    let plain = fleet.path("plain.toml");
    fs::write(&plain, fleet.config()).unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let roles = format!("[api]\nread = [\"{READER}\"]\noperate = [\"@{OPERATORS}\"]\n");
    let path = fleet.path("roles.toml");
    fs::write(&path, format!("{}\n{roles}", fleet.config())).unwrap();
    let [plain, path] = [plain, path].map(|path| path.display().to_string());

    // Without roles nobody else can even connect.
    let (code, said) = ask(&fleet, READER, READER, &["status"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("[api]"), "{said}");

    fleet.cli(&["config", "apply", &path]).unwrap();
    let drain = ["backend", "drain", "one"];
    let undrain = ["backend", "undrain", "one"];
    let apply = ["config", "apply", &plain];
    for (uid, gid, command, wanted) in [
        (READER, READER, &["status"][..], 0),
        (READER, READER, &["config", "history"], 0),
        (READER, READER, &["config", "diff", &plain], 0),
        (READER, READER, &drain, 5),
        (READER, READER, &["config", "rollback"], 5),
        (READER, READER, &apply, 5),
        (NOBODY, OPERATORS, &["status"], 0),
        (NOBODY, OPERATORS, &drain, 0),
        (NOBODY, OPERATORS, &undrain, 0),
        (NOBODY, OPERATORS, &apply, 5),
        (READER, OPERATORS, &drain, 0),
        (NOBODY, NOBODY, &["status"], 5),
        (NOBODY, NOBODY, &["config", "show"], 5),
        (0, 0, &undrain, 0),
    ] {
        let (code, said) = ask(&fleet, uid, gid, command);
        assert_eq!(code, Some(wanted), "{uid}:{gid} {command:?}: {said}");
        assert_eq!(wanted == 5, said.contains("this needs the role "), "{said}");
    }
    // An admin removes the roles, including its own.
    let (code, said) = ask(&fleet, NOBODY, OPERATORS, &["config", "rollback"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ask(&fleet, NOBODY, OPERATORS, &["status"]).0, Some(4));
    let state = fleet.state().display().to_string();
    let said = fleet
        .in_node(&["journal", "show", "--state", &state])
        .unwrap();
    assert!(
        said.contains(&format!("(Rollback, uid {NOBODY} (pid ")),
        "{said}"
    );
}

/// One who may only see asks what another configuration would do, which names files that are not its own to read.
#[test]
fn who_may_only_see_has_no_file_read_for_it() {
    let fleet = with_reader();
    let pipe = fleet.path("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let pipe = pipe.display().to_string();
    for file in ["/dev/zero", "/etc/shadow", pipe.as_str()] {
        let lines = fleet.config();
        let lines = lines.lines().map(|line| match line.strip_prefix("ca = ") {
            Some(_) => format!("ca = {file:?}"),
            None => line.to_owned(),
        });
        let text: Vec<String> = lines.collect();
        let path = write(&fleet, &text.join("\n"));
        let (code, said) = ask(&fleet, READER, READER, &["config", "diff", &path]);
        assert_ne!(code, Some(0), "{file}: {said}");
        assert!(said.contains("names only files that"), "{file}: {said}");
        // Nor do those who may have it read wait for ever.
        let (code, said) = ask(&fleet, 0, 0, &["config", "diff", &path]);
        assert!(code.is_some(), "{file}: {said}");
    }
}

/// Starts a site with roles on its socket, and applies that configuration.
fn with_reader() -> Fleet {
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    let text = fleet.config();
    let api = format!(
        "[api]\nread = [\"{READER}\"]\nmetrics = \"127.0.0.1:9464\"\nmetrics_hosts = [\"edge.test\"]\n"
    );
    fs::write(fleet.config_path(), format!("{text}\n{api}")).unwrap();
    fleet.start().unwrap();
    fs::set_permissions(fleet.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fleet
}

fn write(fleet: &Fleet, text: &str) -> String {
    let path = fleet.path("new.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.display().to_string()
}

/// Returns whether the loop answers root.
fn is_alive(fleet: &Fleet) -> bool {
    let socket = fleet.path("steer.sock").display().to_string();
    let curl = [
        "curl",
        "-s",
        "-m",
        "5",
        "--unix-socket",
        &socket,
        "http://x/healthz",
    ];
    fleet.site.node.run(&curl).is_ok_and(|said| said == "ok\n")
}

#[test]
fn a_document_of_a_reader_holds_up_nobody_and_tells_no_variable() {
    let fleet = with_reader();
    // More than a mebibyte of one name.
    let names = vec!["\"a-name-that-is-long-enough-to-make-it-a-lot-of-text\""; 20_000].join(", ");
    let text = fleet.config();
    let huge = format!("{text}\n[[pool]]\nname = \"p\"\nbackends = [{names}]\n");
    assert!(huge.len() > 1 << 20);
    let path = write(&fleet, &huge);
    let asked = std::thread::scope(|scope| {
        let diff = scope.spawn(|| ask(&fleet, READER, READER, &["config", "diff", &path]));
        let mut answers = 0;
        while !diff.is_finished() {
            assert!(is_alive(&fleet), "the loop stood still");
            answers += 1;
        }
        assert!(answers > 0);
        diff.join().unwrap()
    });
    assert_eq!(asked.0, Some(3), "{}", asked.1);
    assert!(asked.1.contains("which does not exist"), "{}", asked.1);
    assert!(asked.1.lines().count() < 300);

    // PATH is in the environment of every daemon.
    for (good, bad) in [
        ("name = \"one\"", "name = \"${PATH}\""),
        ("region = \"home\"", "region = \"${PATH}\""),
        ("pools = [\"all\"]", "pools = [\"${PATH}\"]"),
    ] {
        let path = write(&fleet, &text.replacen(good, bad, 1));
        let (code, said) = ask(&fleet, READER, READER, &["config", "diff", &path]);
        assert_ne!(code, Some(0), "{said}");
        assert!(said.contains("this role expands only variables"), "{said}");
        assert!(!said.contains("/bin"), "{said}");
    }
}

#[test]
fn those_without_a_role_keep_nobody_out() {
    use std::{io::Write as _, os::unix::net::UnixStream};
    let fleet = with_reader();
    let socket = fleet.path("steer.sock");
    let hold = |uid: u32, count: usize| {
        let socket = socket.clone();
        std::thread::spawn(move || {
            // SAFETY: changes the credentials of this thread alone, as no function of libc does.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
            assert_eq!(done, 0);
            let half = |mut stream: UnixStream| {
                // The daemon may have closed it already.
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost");
                stream
            };
            let streams = (0..count).map_while(|_| UnixStream::connect(&socket).ok());
            streams.map(half).collect::<Vec<_>>()
        })
        .join()
        .unwrap()
    };
    let held: Vec<_> = (0..40).map(|user| hold(NOBODY + user, 10)).collect();
    assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 400);
    let (code, said) = ask(&fleet, READER, READER, &["status"]);
    assert_eq!(code, Some(0), "{said}");
    let more = hold(READER, 100);
    assert!(is_alive(&fleet));
    drop((held, more));
    // Root's connections are bounded, too: excess ones are closed, and the daemon continues.
    drop(hold(0, 1000));
    assert_eq!(ask(&fleet, READER, READER, &["status"]).0, Some(0));
    assert!(is_alive(&fleet));
}

#[test]
fn metrics_answer_for_no_name_that_somebody_made_point_here() {
    let fleet = with_reader();
    for (host, code) in [
        ("127.0.0.1:9464", "200"),
        ("localhost:9464", "200"),
        ("edge.test:9464", "200"),
        ("rebound.test:9464", "421"),
        ("rebound.test", "421"),
    ] {
        for path in ["/metrics", "/healthz"] {
            let header = format!("host: {host}");
            let url = format!("http://127.0.0.1:9464{path}");
            let curl = [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                &header,
                &url,
            ];
            assert_eq!(fleet.site.node.run(&curl).unwrap(), code, "{host} {path}");
        }
    }
}
