//! Who may do what over the API's socket, as other users; this needs root.

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

/// What a command says to a user: its exit code and its errors.
fn ask(fleet: &Fleet, uid: u32, gid: u32, arguments: &[&str]) -> (Option<i32>, String) {
    // A copy that every user may execute, wherever this was built.
    let steer = fleet.path("steer");
    if !steer.exists() {
        fs::copy(binary("steer").unwrap(), &steer).unwrap();
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
    // An operator takes the roles back, and has none any more.
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
