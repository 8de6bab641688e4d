//! Cost of changes for clients: daemon, program and configuration change while streamed requests go
//! through the node, and failed ones are counted.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::Load,
    summary::Summary,
};
use tokio::sync::watch;

/// Time for which traffic continues before and after a change.
const AROUND: Duration = Duration::from_millis(1500);
/// Number of generations to roll back through.
const GENERATIONS: u64 = 9;
/// Number of daemons killed during a takeover.
const KILLS: u64 = 10;
/// Number of daemons killed during an apply.
const APPLY_KILLS: u64 = 12;

/// Print the cost of changes for clients in a table.
#[derive(Debug, Parser)]
struct Options {
    /// Forwarding modes to backends.
    #[arg(long, default_values = ["nat", "ipip"])]
    mode: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!(
        "{:<5} {:<46} {:>8} {:>7} {:>12} {:>9}",
        "mode", "", "requests", "failed", "longest gap", "took"
    );
    let mut failed = 0;
    for mode in &options.mode {
        let mode = match mode.as_str() {
            "nat" => "nat",
            "ipip" => "ipip",
            other => anyhow::bail!("{other}: no mode of this; write nat or ipip"),
        };
        let mut table = Table::new(mode)?;
        table.run()?;
        failed += table.failed;
    }
    ensure!(failed == 0, "{failed} requests failed");
    Ok(())
}

struct Table {
    mode: &'static str,
    fleet: Fleet,
    failed: usize,
}

type Act<'a> = &'a mut dyn FnMut(&mut Fleet) -> Result<()>;

impl Table {
    fn new(mode: &'static str) -> Result<Self> {
        let mut fleet = Fleet::new(Plan {
            thinking: [Duration::from_millis(40), Duration::from_millis(10)],
            tokens: 60,
            ..Plan::new(&["near", "far"], mode)
        })?;
        fs::write(fleet.config_path(), config(&fleet))?;
        fleet.start()?;
        Ok(Self {
            mode,
            fleet,
            failed: 0,
        })
    }

    fn run(&mut self) -> Result<()> {
        let good = config(&self.fleet);
        let config = self.fleet.config_path();
        let write = |text: &str| fs::write(&config, text).context("the configuration");
        self.under("nothing", &mut |_| Ok(()))?;
        self.under("restart", &mut |fleet| {
            stop(fleet)?;
            fleet.start()
        })?;
        self.under("SIGKILL, and a start after a second", &mut |fleet| {
            fleet.kill_daemon();
            std::thread::sleep(Duration::from_secs(1));
            fleet.start()
        })?;
        let copy = self.fleet.path("steer-copy");
        fs::copy(self.fleet.program(), &copy)?;
        self.under("upgrade, same map ABI", &mut |fleet| {
            stop(fleet)?;
            fleet.use_program_at(&copy);
            fleet.start()
        })?;
        self.under("upgrade, newer map ABI", &mut |fleet| {
            stop(fleet)?;
            fleet.use_program("steer-next")?;
            fleet.start()
        })?;
        self.under("back to the older map ABI", &mut |fleet| {
            stop(fleet)?;
            fleet.use_program("steer")?;
            fleet.start()
        })?;
        self.under(
            &format!("{KILLS} SIGKILLs in takeovers of map ABIs"),
            &mut |fleet| {
                for kill in 0..KILLS {
                    fleet.kill_daemon();
                    fleet.use_program(["steer-next", "steer"][kill as usize % 2])?;
                    fleet.start_daemon()?;
                    std::thread::sleep(Duration::from_millis(100 + 300 * kill));
                }
                fleet.kill_daemon();
                fleet.use_program("steer")?;
                fleet.start()
            },
        )?;
        self.under("restart with tables of another size", &mut |fleet| {
            write(&(good.clone() + RESIZED))?;
            stop(fleet)?;
            fleet.start()
        })?;
        self.under("restart with tables of the first size", &mut |fleet| {
            write(&good)?;
            stop(fleet)?;
            fleet.start()
        })?;
        self.under("upgrade that cannot start, and back", &mut |fleet| {
            stop(fleet)?;
            fleet.use_program_at(Path::new("/bin/false"));
            fleet.start_daemon()?;
            std::thread::sleep(Duration::from_millis(500));
            fleet.use_program("steer")?;
            fleet.start()
        })?;
        self.under("reload with another service", &mut |fleet| {
            write(&(good.clone() + ANOTHER))?;
            fleet.daemon()?.signal(libc::SIGHUP);
            wait(Duration::from_secs(10), "it is reloaded", || {
                Ok(fleet.status()?.to_string().contains("\"another\""))
            })
        })?;
        self.under("reload with a wrong configuration", &mut |fleet| {
            write("[node\n")?;
            fleet.daemon()?.signal(libc::SIGHUP);
            std::thread::sleep(Duration::from_millis(500));
            ensure!(fleet.daemon()?.is_running(), "the daemon has ended");
            write(&good)
        })?;
        let path = config.display().to_string();
        for number in 0..GENERATIONS {
            write(&good.replace("\"chat-tls\"", &format!("\"chat-tls-{number}\"")))?;
            self.fleet.cli(&["config", "apply", &path])?;
        }
        let mut longest = Duration::ZERO;
        self.under("rollback to each of nine generations", &mut |fleet| {
            let now = generation(fleet)?;
            for number in (now - GENERATIONS..now).rev() {
                let begun = Instant::now();
                fleet.cli(&["config", "rollback", &number.to_string()])?;
                longest = longest.max(begun.elapsed());
                ensure!(
                    generation(fleet)? == number,
                    "it is not the one gone back to"
                );
            }
            Ok(())
        })?;
        println!(
            "{:<5} the longest rollback took {:.0} ms",
            self.mode,
            longest.as_secs_f64() * 1e3
        );
        let mut taken = 0;
        self.under(
            &format!("{APPLY_KILLS} SIGKILLs while configurations are applied"),
            &mut |fleet| {
                for kill in 0..APPLY_KILLS {
                    taken += u64::from(kill_an_apply(fleet, &good, kill)?);
                }
                write(&good)?;
                fleet.cli(&["config", "apply", &path]).map(drop)
            },
        )?;
        println!(
            "{:<5} of those kills {taken} left the new configuration, {} the one of before, none another",
            self.mode,
            APPLY_KILLS - taken
        );
        Ok(())
    }

    fn under(&mut self, what: &str, act: Act<'_>) -> Result<()> {
        let (stop, stopped) = watch::channel(false);
        let running = Load {
            concurrency: 8,
            duration: Duration::from_secs(900),
            timeout: Duration::from_secs(20),
            stop: Some(stopped),
            ..Load::new(SocketAddr::new(self.fleet.vip(), HTTP))
        }
        .start_in(&self.fleet.site.client)?;
        std::thread::sleep(AROUND);
        let begun = Instant::now();
        act(&mut self.fleet).with_context(|| what.to_owned())?;
        let took = begun.elapsed();
        std::thread::sleep(AROUND);
        stop.send(true)?;
        let samples = running.finish()?;
        let summary = Summary::from_samples(&samples);
        for error in samples.iter().filter_map(|sample| sample.error.as_ref()) {
            println!("  {error}");
        }
        self.failed += summary.failures;
        println!(
            "{:<5} {what:<46} {:>8} {:>7} {:>9.0} ms {:>7.1} s",
            self.mode,
            summary.requests,
            summary.failures,
            summary.gap.as_secs_f64() * 1e3,
            took.as_secs_f64()
        );
        Ok(())
    }
}

/// Kills the daemon some time after it was asked to apply a configuration, and starts another one.
/// Returns whether the new configuration was in use then.
fn kill_an_apply(fleet: &mut Fleet, good: &str, kill: u64) -> Result<bool> {
    let next = good.replace("\"chat-tls\"", &format!("\"chat-tls-killed-{kill}\""));
    let state = fleet.state().display().to_string();
    let before = fleet.in_node(&["config", "show", "--state", &state])?;
    let path = fleet.path("next.toml");
    fs::write(&path, &next)?;
    let pid = fleet.daemon_pid()?;
    let site = &*fleet;
    let told = std::thread::scope(|scope| -> Result<bool> {
        let path = path.display().to_string();
        let apply = scope.spawn(move || site.cli(&["config", "apply", &path]).is_ok());
        // From before the request is sent to after it is answered.
        std::thread::sleep(Duration::from_millis(kill * 6));
        // SAFETY: kill touches no memory; the daemon is a child that was not waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        apply
            .join()
            .map_err(|_| anyhow::anyhow!("the apply has failed"))
    })?;
    let now = fleet.in_node(&["config", "show", "--state", &state])?;
    let is_new = now.contains(&next);
    ensure!(
        is_new || now == before,
        "neither the old nor the new one: {now}"
    );
    ensure!(is_new || !told, "what was answered is lost");
    fleet.kill_daemon();
    fleet.start()?;
    let shown = fleet.cli(&["config", "show"])?;
    ensure!(
        shown.contains(&next) == is_new,
        "another one is in use: {shown}"
    );
    Ok(is_new)
}

/// Another service, for a reload.
const ANOTHER: &str = "\n[[service]]\nname = \"another\"\naddress = \"10.99.0.77\"\nport = 80\n\
                       pools = [\"all\"]\n";

const RESIZED: &str = "\n[limits]\nflows = 100000\nnat_flows = 100000\n";

/// Returns a tolerant configuration: a busy machine may answer probes late, and resets of open
/// connections because of that are not caused by a change.
fn config(fleet: &Fleet) -> String {
    fleet.config().replace("[probe]\n", "[probe]\nfall = 50\n")
}

/// Stops the daemon like a service manager does.
fn stop(fleet: &mut Fleet) -> Result<()> {
    fleet.daemon()?.signal(libc::SIGTERM);
    wait(Duration::from_secs(20), "the daemon has ended", || {
        Ok(!fleet.daemon()?.is_running())
    })
}

fn generation(fleet: &Fleet) -> Result<u64> {
    fleet.status()?["generation"]
        .as_u64()
        .context("the status has no generation")
}
