//! Failures and recoveries.

use std::{thread, time::Duration};

use anyhow::Result;
use serde::Serialize;

use crate::{fleet::Fleet, topology::PORT};

/// A failure of a backend, or of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// Engine and beacon are killed.
    Killed,
    /// The engine is killed: its port refuses connections, and the beacon runs.
    EngineKilled,
    /// The beacon is killed, and the engine runs.
    BeaconKilled,
    /// Engine and beacon are stopped: the kernel accepts connections, and nothing answers.
    Stopped,
    /// The engine is stopped, and the beacon runs.
    EngineStopped,
    /// The engine accepts requests and answers pages of health and metrics, but does no work.
    Hung,
    /// The backend's interface goes down.
    LinkDown,
    /// All frames are lost in both directions.
    BlackHole,
    /// Half of the frames are lost in each direction.
    HalfLost,
    /// The engine is slower by a factor of ten.
    Slow,
    /// Engine and beacon die and recover each second, three times.
    Flapping,
    /// The operator drains the backend.
    Drained,
    /// The beacon reports that it drains.
    BeaconDrains,
    /// The daemon is killed, and restarted.
    DaemonKilled,
}

impl Death {
    /// All failures.
    pub const ALL: [Self; 14] = [
        Self::Killed,
        Self::EngineKilled,
        Self::BeaconKilled,
        Self::Stopped,
        Self::EngineStopped,
        Self::Hung,
        Self::LinkDown,
        Self::BlackHole,
        Self::HalfLost,
        Self::Slow,
        Self::Flapping,
        Self::Drained,
        Self::BeaconDrains,
        Self::DaemonKilled,
    ];

    /// Returns the name in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Killed => "SIGKILL of engine and beacon",
            Self::EngineKilled => "SIGKILL of the engine",
            Self::BeaconKilled => "SIGKILL of the beacon",
            Self::Stopped => "SIGSTOP of engine and beacon",
            Self::EngineStopped => "SIGSTOP of the engine",
            Self::Hung => "engine hung, health page fine",
            Self::LinkDown => "link down",
            Self::BlackHole => "black hole",
            Self::HalfLost => "half of all frames lost",
            Self::Slow => "engine ten times slower",
            Self::Flapping => "dying each second",
            Self::Drained => "drained by the operator",
            Self::BeaconDrains => "drained by its beacon",
            Self::DaemonKilled => "SIGKILL of the daemon",
        }
    }

    /// Returns whether new flows must avoid the backend permanently, so that there is a last one.
    #[must_use]
    pub const fn ends_new_flows(self) -> bool {
        !matches!(
            self,
            Self::HalfLost | Self::Slow | Self::Flapping | Self::DaemonKilled
        )
    }

    /// Returns whether the backend goes on serving: it gets new flows as long as the node sees under
    /// `nat` that its clients are answered, and open flows go on.
    #[must_use]
    pub fn keeps_serving(self, mode: &str) -> bool {
        self == Self::BeaconKilled && mode == "nat"
    }

    /// Returns whether no request may fail.
    #[must_use]
    pub const fn fails_nothing(self) -> bool {
        matches!(
            self,
            Self::Slow | Self::Drained | Self::BeaconDrains | Self::DaemonKilled
        )
    }

    /// Returns the time for the daemon to detect it.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            // Default timeouts of beacons: 5 s of silence, 20 s without progress.
            Self::EngineStopped => Duration::from_secs(9),
            Self::Hung => Duration::from_secs(26),
            _ => Duration::from_secs(4),
        }
    }

    /// Causes the failure.
    pub fn inflict(self, fleet: &mut Fleet, victim: usize) -> Result<()> {
        match self {
            Self::Killed => fleet.kill_backend(victim),
            Self::EngineKilled => fleet.kill_server(victim),
            Self::BeaconKilled => fleet.kill_beacon(victim),
            Self::Stopped => {
                fleet.signal_server(victim, libc::SIGSTOP);
                fleet.signal_beacon(victim, libc::SIGSTOP);
            }
            Self::EngineStopped => fleet.signal_server(victim, libc::SIGSTOP),
            Self::Hung => fleet.signal_server(victim, libc::SIGUSR1),
            Self::LinkDown => link(fleet, victim, "down")?,
            Self::BlackHole => fleet.site.backends[victim].lose(100)?,
            Self::HalfLost => fleet.site.backends[victim].lose(50)?,
            Self::Slow => fleet.signal_server(victim, libc::SIGUSR2),
            Self::Flapping => {
                for turn in 0..3 {
                    if turn > 0 {
                        fleet.start_backend(victim)?;
                        // The time between deaths is part of the failure.
                        thread::sleep(Duration::from_secs(1));
                    }
                    fleet.kill_backend(victim);
                }
            }
            Self::Drained => {
                fleet.cli(&["backend", "drain", fleet.names()[victim]])?;
            }
            Self::BeaconDrains => fleet.drain_by_beacon(victim, true)?,
            Self::DaemonKilled => {
                fleet.kill_daemon();
                // Time in which only the program in the kernel runs.
                thread::sleep(Duration::from_millis(500));
                fleet.start_daemon()?;
            }
        }
        Ok(())
    }

    /// Ends the failure.
    pub fn repair(self, fleet: &mut Fleet, victim: usize) -> Result<()> {
        match self {
            Self::Killed | Self::Flapping => fleet.start_backend(victim)?,
            Self::EngineKilled => fleet.start_server(victim)?,
            Self::BeaconKilled => fleet.start_beacon(victim)?,
            Self::Stopped => {
                fleet.signal_server(victim, libc::SIGCONT);
                fleet.signal_beacon(victim, libc::SIGCONT);
            }
            Self::EngineStopped => fleet.signal_server(victim, libc::SIGCONT),
            Self::Hung => fleet.signal_server(victim, libc::SIGUSR1),
            Self::LinkDown => {
                link(fleet, victim, "up")?;
                fleet.site.backends[victim].restore()?;
            }
            Self::BlackHole | Self::HalfLost => fleet.site.backends[victim].lose(0)?,
            Self::Slow => fleet.signal_server(victim, libc::SIGUSR2),
            Self::Drained => {
                fleet.cli(&["backend", "undrain", fleet.names()[victim]])?;
            }
            Self::BeaconDrains => fleet.drain_by_beacon(victim, false)?,
            Self::DaemonKilled => {}
        }
        Ok(())
    }
}

fn link(fleet: &Fleet, victim: usize, state: &str) -> Result<()> {
    let backend = &fleet.site.backends[victim].namespace;
    backend.run(&["ip", "link", "set", PORT, state]).map(drop)
}
