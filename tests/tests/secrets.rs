//! Secrets in values of variables and private keys never appear in output. Needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use steer_probe::pki::{self, Identity, IdentityKind, Validity};
use steer_tests::{
    fleet::{Fleet, Plan, binary, wait},
    process::Process,
};

const SOON: Duration = Duration::from_secs(20);
/// A secret with characters at which parsers split texts.
const TOKEN: &str = "hunter2-5Zx9QmWv:7LrTk3Pd/qYb8Gs4N";
/// Parts of it that must not appear either.
const PARTS: [&str; 3] = ["hunter2", "7LrTk3Pd", "qYb8Gs4N"];
const PROBES: &str = "probes = [\"beacon\", \"http:8080/health?token=${TOKEN}\"]";

/// A site that knows a secret, with all of its output.
struct Told {
    fleet: Fleet,
    daemon: Option<Process>,
    secrets: Vec<String>,
    key: PathBuf,
}

impl Told {
    fn new() -> Self {
        let fleet = Fleet::new(Plan::new(&["one", "two"], "nat")).unwrap();
        let folder = fleet.path("api");
        pki::init(&folder).unwrap();
        for (kind, name) in [
            (IdentityKind::Api, "edge-api"),
            (IdentityKind::Operator, "ann"),
        ] {
            let identity = Identity::new(kind, "home", name).unwrap();
            let validity = Validity::for_next(Duration::from_secs(86_400));
            pki::issue(&folder, &identity, validity, &["127.0.0.1".to_owned()]).unwrap();
        }
        let mut secrets: Vec<String> = PARTS.map(str::to_owned).into();
        for place in [&folder, &fleet.path("pki")] {
            secrets.extend(keys(place));
        }
        assert!(secrets.len() > PARTS.len() + 10, "{secrets:?}");
        let key = fleet.path("pki").join("edge.key");
        let told = Self {
            fleet,
            daemon: None,
            secrets,
            key,
        };
        fs::write(told.fleet.config_path(), told.config()).unwrap();
        told
    }

    /// Returns a configuration with the secret in the path of probes, and every possible key.
    fn config(&self) -> String {
        let place = self.fleet.path("api");
        let place = place.display();
        let config = self.fleet.config();
        let with = config.replace("\nbeacon = ", &format!("\n{PROBES}\nbeacon = "));
        assert_ne!(with, config);
        with + &format!(
            "\n[api]\nadmin = [\"cert:ann\"]\nlisten = \"127.0.0.1:9443\"\n\
             cert = \"{place}/edge-api.pem\"\nkey = \"{place}/edge-api.key\"\n\
             ca = \"{place}/ca.pem\"\n\
             [telemetry]\notlp = \"http://127.0.0.1:4318/${{TOKEN}}\"\notlp_interval = \"1s\"\n"
        )
    }

    fn log(&self) -> String {
        fs::read_to_string(self.fleet.path("log")).unwrap()
    }

    fn knowing(&self, command: &mut Command) {
        let key = fs::read_to_string(&self.key).unwrap();
        command.env("TOKEN", TOKEN).env("KEY", key);
    }

    /// Starts the daemon with full logging.
    fn start(&mut self) {
        drop(self.daemon.take());
        let mut daemon = Command::new(binary("steer").unwrap());
        daemon
            .args(["run", "--config"])
            .arg(self.fleet.config_path())
            .env("STEER_LOG", "trace");
        self.knowing(&mut daemon);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.fleet.path("log"));
        daemon.stderr(log.unwrap());
        self.daemon = Some(self.fleet.site.node.spawn(daemon).unwrap());
    }

    /// Returns the output of a command, successful or not; checks that it contains no secret.
    fn says(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.fleet.site.node.path()))
            .arg("--")
            .arg(binary("steer").unwrap())
            .args(arguments);
        self.knowing(&mut command);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        self.assert_silent(&format!("steer {arguments:?}"), said.as_bytes());
        said
    }

    fn asked(&self, arguments: &[&str]) -> String {
        let socket = self.fleet.path("steer.sock").display().to_string();
        self.says(&[arguments, &["--socket", &socket]].concat())
    }

    fn page(&self, path: &str) -> String {
        let socket = self.fleet.path("steer.sock").display().to_string();
        let url = format!("http://x{path}");
        let curl = ["curl", "-s", "--unix-socket", &socket, &url];
        let page = self.fleet.site.node.run(&curl).unwrap();
        self.assert_silent(path, page.as_bytes());
        page
    }

    fn assert_silent(&self, whose: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for secret in &self.secrets {
            if let Some(at) = text.find(secret.as_str()) {
                let line = text[..at].lines().count();
                panic!("{whose} tells {secret:?} in line {line}");
            }
        }
    }

    /// Checks the log and all files of the state directory; returns their number.
    fn assert_files_silent(&self) -> usize {
        self.assert_silent("the log", self.log().as_bytes());
        let mut folders = vec![self.fleet.state()];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                count += 1;
                let bytes = fs::read(&path).unwrap();
                self.assert_silent(&path.display().to_string(), &bytes);
            }
        }
        count
    }

    fn write(&self, text: &str) -> String {
        let folder = self.fleet.path("new");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("new.toml");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

/// Returns the lines of all private keys in a folder.
fn keys(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let keys = entries.filter(|path| path.extension().is_some_and(|e| e == "key"));
    keys.flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        let body = text.lines().filter(|line| !line.starts_with("-----"));
        body.map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn values_of_variables_and_private_keys_are_told_nowhere() {
    let mut told = Told::new();
    told.start();
    wait(SOON, "both are up", || {
        let health = told.fleet.health().unwrap_or_default();
        Ok(health.len() == 2 && health.iter().all(|(_, health)| health == "up"))
    })
    .unwrap();

    // Another generation, with the secret elsewhere; and one that fails.
    let moved = told.config().replacen("?token=", "?key=", 1);
    let path = told.write(&moved);
    let said = told.asked(&["config", "diff", &path]);
    assert!(said.contains("?key=${TOKEN}"), "{said}");
    let said = told.asked(&["config", "apply", &path]);
    assert!(said.contains("generation 2 is in use"), "{said}");
    let path = told.write(&moved.replace("/health", "/nowhere"));
    let said = told.asked(&["config", "apply", &path]);
    assert!(said.contains("generation 3 is in use"), "{said}");
    wait(SOON, "probes fail", || {
        let health = told.fleet.health()?;
        Ok(health.iter().all(|(_, health)| health == "down"))
    })
    .unwrap();

    let state = told.fleet.state().display().to_string();
    for (command, says) in [
        (&["config", "show"][..], "${TOKEN}"),
        (&["config", "show", "1"], "${TOKEN}"),
        (&["config", "history"], "3"),
        (&["status"], "status 404"),
        (&["status", "--json"], "status 404"),
        (&["why", "one"], "status 404"),
        (&["backend", "show", "one"], "one"),
        (&["tune", "list"], "log"),
    ] {
        let said = told.asked(command);
        assert!(said.contains(says), "{command:?}: {said}");
    }
    for command in ["show", "verify", "replay"] {
        told.says(&["journal", command, "--state", &state]);
    }
    for (page, says) in [
        ("/v1/status", "\"one\""),
        ("/metrics", "steer_backend_health"),
        ("/readyz", ""),
    ] {
        let said = told.page(page);
        assert!(said.contains(says), "{page}: {said}");
    }
    let said = told.asked(&["config", "rollback", "1"]);
    assert!(said.contains('1'), "{said}");
    assert!(told.assert_files_silent() > 3);
    assert!(told.log().contains("TRACE"), "it does not log all");
    // Nobody listens there, which is reported without the path.
    assert!(told.log().contains("http://127.0.0.1:4318"));

    // Invalid ones: reported by the daemon, by the command, and by a daemon that starts with them.
    let key = told.key.display().to_string();
    let config = told.config();
    let own = format!("key = \"{key}\"");
    for (good, wrong, says) in [
        (
            PROBES,
            "probes = [\"beacon\", \"${TOKEN}\"]",
            "\"${TOKEN}\" is not a probe method",
        ),
        (
            PROBES,
            "probes = [\"beacon\", \"http:0/${TOKEN}\"]",
            "is not a probe method",
        ),
        (
            "address = \"",
            "address = \"${TOKEN}",
            "is not an IP address",
        ),
        ("mode = \"nat\"", "mode = \"${TOKEN}\"", "`mode` cannot be"),
        (
            "mode = \"nat\"",
            "mode = \"nat\"\ncapacity = \"${TOKEN}\"",
            "`capacity` is the text",
        ),
        (
            "slow_start = \"0s\"",
            "slow_start = \"${TOKEN}\"",
            "is not a duration",
        ),
        ("listen = \"127.0.0.1:9443\"", "listen = \"${TOKEN}\"", ""),
        ("admin = [\"cert:ann\"]", "admin = [\"cert:${TOKEN}\"]", ""),
        (
            "pools = [\"all\"]",
            "pools = [\"${TOKEN}\"]",
            "\"${TOKEN}\"",
        ),
        ("name = \"all\"", "name = \"${TOKEN}\"", ""),
        (&own, "key = \"${TOKEN}\"", "is not an absolute path"),
        (&own, "key = \"${KEY}\"", "this is the content of a file"),
    ] {
        let wrong = config.replacen(good, wrong, 1);
        assert_ne!(wrong, config, "{good}");
        let path = told.write(&wrong);
        for said in [
            told.asked(&["config", "apply", &path]),
            told.asked(&["config", "diff", &path]),
            told.says(&["config", "check", &path]),
        ] {
            assert!(said.contains("new.toml:") && said.contains(says), "{said}");
        }
        if good == own {
            fs::write(told.fleet.config_path(), &wrong).unwrap();
            told.start();
            wait(SOON, "it says what is wrong", || {
                Ok(told.log().contains(says) && told.fleet.status().is_ok())
            })
            .unwrap();
        }
    }
    // A key in place of a certificate, and in place of a configuration.
    let path = told.write(&config.replacen("pki/edge.pem", "pki/edge.key", 1));
    for command in [
        &["config", "check", &path][..],
        &["doctor", "--config", &path],
    ] {
        let said = told.says(command);
        assert!(said.contains("a private key, not a certificate"), "{said}");
    }
    told.says(&["config", "check", &key]);
    told.asked(&["config", "apply", &key]);
    told.assert_files_silent();
}
