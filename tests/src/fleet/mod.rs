//! A complete site: backends with their beacons, and a node with its daemon, each a process of its
//! own in a network namespace of its own.

mod config;
mod engines;
mod faults;

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    bpffs::Bpffs,
    process::Process,
    topology::{Backend, Link, PORT, Site, VIP_V4, VIP_V6},
};

/// Port of plain HTTP, at VIP and backends.
pub const HTTP: u16 = 8080;
/// Port of HTTP over TLS, at VIP and backends.
pub const HTTPS: u16 = 8443;
/// Timeout of anything at a site, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(60);
/// Port of plain HTTP at the VIP for tunnelled backends.
pub const TUNNEL: u16 = 8081;
/// Port of the beacons.
pub const BEACON: u16 = 7100;
/// Source addresses of `nat` and `ipip`.
pub const SOURCES: [&str; 2] = ["10.98.0.1", "fd98::1"];

/// Description of a site.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of the backends, with the one-way delay of the link to each.
    pub backends: Vec<(&'static str, Option<Duration>)>,
    /// Forwarding mode: "nat" or "ipip".
    pub mode: &'static str,
    /// Whether backends have IPv6 addresses.
    pub v6: bool,
    /// Time to the first token, and between tokens.
    pub thinking: [Duration; 2],
    /// Tokens of an answer.
    pub tokens: usize,
    /// Whether weights follow as by default, and not at once.
    pub defaults: bool,
    /// Whether beacons watch our own server as an engine.
    pub watched: bool,
    /// Engine profile that beacons use.
    pub engine: &'static str,
    /// Additional arguments of beacons.
    pub beacon: Vec<&'static str>,
    /// Whether other hosts can be plugged into the links.
    pub shared: bool,
    /// Backends with mode `ipip`, whatever the mode of the others, which serve only [`TUNNEL`].
    pub tunnelled: Vec<&'static str>,
    /// Fault that a server activates on SIGHUP, as in `steer-chat --fault`.
    pub fault: Option<&'static str>,
    /// Python with xllamacpp, gguf and numpy, to use llama.cpp instead of our own server.
    pub llama: Option<PathBuf>,
}

impl Plan {
    /// Creates a plan for backends without delay, over IPv4, with short answers.
    pub fn new(backends: &[&'static str], mode: &'static str) -> Self {
        Self {
            backends: backends.iter().map(|name| (*name, None)).collect(),
            mode,
            v6: false,
            thinking: [Duration::from_millis(5), Duration::from_millis(2)],
            tokens: 5,
            defaults: false,
            watched: false,
            engine: "vllm",
            beacon: Vec::new(),
            shared: false,
            tunnelled: Vec::new(),
            fault: None,
            llama: None,
        }
    }
}

impl Plan {
    /// Creates the network, without any processes.
    fn site(&self) -> Result<Site> {
        if self.shared {
            let links = vec![Link::Segment; self.backends.len()];
            return Site::over(&Link::Segment, &links);
        }
        let delays: Vec<_> = self.backends.iter().map(|(_, delay)| *delay).collect();
        Site::new(&delays)
    }
}

/// The running site. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    daemon: Option<Process>,
    servers: Vec<Servers>,
    decaps: Vec<Process>,
    steer: PathBuf,
    plan: Plan,
    /// Network.
    pub site: Site,
    bpffs: Bpffs,
    folder: TempDir,
}

#[derive(Debug, Default)]
struct Servers {
    chat: Option<Process>,
    beacon: Option<Process>,
}

impl Fleet {
    /// Creates the site and starts its backends, but no daemon yet.
    pub fn new(plan: Plan) -> Result<Self> {
        let site = plan.site()?;
        let mut fleet = Self {
            daemon: None,
            servers: Vec::new(),
            decaps: Vec::new(),
            steer: binary("steer")?,
            plan,
            site,
            bpffs: Bpffs::mount()?,
            folder: tempfile::tempdir()?,
        };
        fleet.make_certificates()?;
        // The same in each run, so that flows get the same backends.
        fs::write(
            fleet.path("flow.seed"),
            "00112233445566778899aabbccddeeff\n",
        )?;
        fs::set_permissions(fleet.path("flow.seed"), fs::Permissions::from_mode(0o600))?;
        fs::write(fleet.config_path(), fleet.config())?;
        for index in 0..fleet.plan.backends.len() {
            if fleet.mode(index) == "ipip" {
                fleet.site.backends[index].add_vips()?;
                fleet.start_decap(index)?;
            }
            fleet.servers.push(Servers::default());
            fleet.start_backend(index)?;
        }
        Ok(fleet)
    }

    /// Uses another build of `steer`, beside the usual one, for processes started from now on.
    pub fn use_program(&mut self, name: &str) -> Result<()> {
        self.steer = binary(name)?;
        Ok(())
    }

    /// Works like [`Self::use_program`], for any file.
    pub fn use_program_at(&mut self, path: &Path) {
        self.steer = path.to_owned();
    }

    /// Returns the program for new processes.
    pub fn program(&self) -> &Path {
        &self.steer
    }

    /// Returns the address of the VIP.
    pub fn vip(&self) -> IpAddr {
        if self.plan.v6 {
            VIP_V6.into()
        } else {
            VIP_V4.into()
        }
    }

    /// Returns the path of the daemon's configuration.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("steer.toml")
    }

    /// Returns the daemon's state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Returns a path in the site's folder, which is removed with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the BPF file system with the daemon's pins.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    fn socket(&self) -> PathBuf {
        self.path("steer.sock")
    }

    fn address(&self, backend: &Backend) -> IpAddr {
        if self.plan.v6 {
            backend.v6.into()
        } else {
            backend.v4.into()
        }
    }

    fn make_certificates(&self) -> Result<()> {
        let pki = self.path("pki");
        fs::create_dir(&pki)?;
        let pki = pki.display().to_string();
        let issue = |arguments: &[&str]| {
            let place = ["--dir", &pki];
            self.in_node(&[&["pki"], arguments, &place].concat())
        };
        issue(&["init"])?;
        issue(&["issue", "node", "edge", "--region", "home"])?;
        for (name, _) in &self.plan.backends {
            issue(&["issue", "beacon", name, "--region", "home"])?;
        }
        Ok(())
    }

    /// Runs a command of the CLI against the daemon, in the node.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.socket().display().to_string();
        self.in_node(&[arguments, &["--socket", &socket]].concat())
    }

    /// Runs a command that needs no daemon, in the node.
    pub fn in_node(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.site.node.path()))
            .arg("--")
            .arg(&self.steer)
            .args(arguments)
            .output()?;
        ensure!(
            output.status.success(),
            "`steer {}` failed ({}): {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts a backend's chat server and beacon.
    pub fn start_backend(&mut self, index: usize) -> Result<()> {
        self.start_server(index)?;
        self.start_beacon(index)
    }

    /// Returns the mode of a backend.
    fn mode(&self, index: usize) -> &'static str {
        if self.is_tunnelled(index) {
            return "ipip";
        }
        self.plan.mode
    }

    fn is_tunnelled(&self, index: usize) -> bool {
        let (name, _) = self.plan.backends[index];
        self.plan.tunnelled.contains(&name)
    }

    /// Returns the port of a backend's server for plain HTTP.
    fn port(&self, index: usize) -> u16 {
        if self.is_tunnelled(index) {
            TUNNEL
        } else {
            HTTP
        }
    }

    /// Returns the address on which a backend's server listens.
    fn serves_at(&self, index: usize) -> IpAddr {
        if self.mode(index) == "ipip" {
            self.vip()
        } else {
            self.address(&self.site.backends[index])
        }
    }

    /// Starts a backend's chat server.
    pub fn start_server(&mut self, index: usize) -> Result<()> {
        let (name, _) = self.plan.backends[index];
        let serves_at = self.serves_at(index);
        let chat = match &self.plan.llama {
            Some(python) => self.llama(python, name, serves_at)?,
            None => self.chat(name, SocketAddr::new(serves_at, self.port(index)))?,
        };
        let mut chat = self.site.backends[index].namespace.spawn(chat)?;
        chat.wait_for("ready")?;
        self.servers[index].chat = Some(chat);
        Ok(())
    }

    /// Starts a backend's beacon.
    pub fn start_beacon(&mut self, index: usize) -> Result<()> {
        let backend = &self.site.backends[index];
        let (name, _) = self.plan.backends[index];
        let pki = self.path("pki");
        let mut beacon = Command::new(binary("steer-beacon")?);
        beacon
            .arg("--listen")
            .arg(SocketAddr::new(self.address(backend), BEACON).to_string())
            .arg("--ca")
            .arg(pki.join("ca.pem"))
            .arg("--cert")
            .arg(pki.join(format!("{name}.pem")))
            .arg("--key")
            .arg(pki.join(format!("{name}.key")));
        if self.plan.watched {
            let serves_at = SocketAddr::new(self.serves_at(index), self.port(index)).to_string();
            beacon
                .args(["--backend", &serves_at, "--engine", self.plan.engine])
                .args(["--capacity", "64", "--drain-file"])
                .arg(self.path(&format!("{name}.drain")))
                .args(&self.plan.beacon);
        }
        self.servers[index].beacon = Some(backend.namespace.spawn(beacon)?);
        Ok(())
    }

    /// Kills a backend's chat server and beacon with SIGKILL.
    pub fn kill_backend(&mut self, index: usize) {
        let servers = std::mem::take(&mut self.servers[index]);
        for mut process in [servers.chat, servers.beacon].into_iter().flatten() {
            process.kill();
        }
    }

    fn start_decap(&mut self, index: usize) -> Result<()> {
        let mut decap = Command::new(&self.steer);
        decap.args(["decap", "--interface", PORT]);
        for source in SOURCES {
            decap.args(["--from", source]);
        }
        let namespace = &self.site.backends[index].namespace;
        self.decaps.push(namespace.spawn(decap)?);
        wait(Duration::from_secs(10), "decap attached", || {
            let link = namespace.run(&["ip", "-d", "link", "show", PORT])?;
            Ok(link.contains("prog/xdp"))
        })
    }

    /// Starts the daemon.
    pub fn start_daemon(&mut self) -> Result<()> {
        let mut daemon = Command::new(&self.steer);
        daemon.args(["run", "--config"]).arg(self.config_path());
        self.daemon = Some(self.site.node.spawn_followed(daemon)?);
        Ok(())
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Returns the daemon, to send it signals.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        self.daemon.as_mut().context("the daemon was not started")
    }

    /// Returns the daemon's process id.
    pub fn daemon_pid(&self) -> Result<i32> {
        let daemon = self.daemon.as_ref().context("the daemon was not started")?;
        Ok(i32::try_from(daemon.pid())?)
    }

    /// Returns the output of `steer status --json`.
    pub fn status(&self) -> Result<Value> {
        let text = self.cli(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Returns the health of each backend in the status.
    pub fn health(&self) -> Result<Vec<(String, String)>> {
        let status = self.status()?;
        let backends = status["backends"]
            .as_array()
            .context("the status names no backends")?;
        backends
            .iter()
            .map(|backend| {
                let field = |name: &str| {
                    let text = backend[name].as_str().map(str::to_owned);
                    text.with_context(|| format!("no {name} in {backend}"))
                };
                Ok((field("name")?, field("health")?))
            })
            .collect()
    }

    /// Waits until the status shows a health for a backend.
    pub fn wait_for_health(&mut self, name: &str, health: &str) -> Result<Duration> {
        let start = Instant::now();
        wait(LIMIT, &format!("{name} is {health}"), || {
            // Before the daemon listens there is no status.
            let Ok(all) = self.health() else {
                if let Some(daemon) = &mut self.daemon
                    && !daemon.is_running()
                {
                    bail!("the daemon has ended: {}", daemon.last_words());
                }
                return Ok(false);
            };
            Ok(all.iter().any(|(n, h)| n == name && h == health))
        })?;
        Ok(start.elapsed())
    }

    /// Starts the daemon and waits until all backends are up.
    pub fn start(&mut self) -> Result<()> {
        self.start_daemon()?;
        for (name, _) in self.plan.backends.clone() {
            self.wait_for_health(name, "up")?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Before the namespaces are removed, and with them the processes' ends of the links.
        self.kill_daemon();
        for index in 0..self.servers.len() {
            self.kill_backend(index);
        }
        for decap in &mut self.decaps {
            decap.kill();
        }
    }
}

/// Polls a condition for which there is no event, until it holds.
pub fn wait(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !ask()? {
        if Instant::now() > end {
            bail!("after {limit:?} it is still not so: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns the path of a program of this workspace, beside the running one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no program {name} beside {}; `cargo xtask programs` makes it",
                own.display()
            )
        })
}
