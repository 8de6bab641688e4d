//! Outlier detection: comparison of backends with their peers, over the counts of the data path.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use steer_common::abi::{LatencyBuckets, Measure};

use super::{connections::Connections, pool_room};
use crate::{
    config::Config,
    control::{
        backends::{Backends, state::BackendState},
        site::Site,
    },
    dataplane::Dataplane,
    domain::{
        first_bursts::{FirstBurstWatch, FirstBursts, MIN_ANSWERS},
        latency::Histogram,
        outliers::{
            Outlier, Peers, SNAPSHOT_EVERY, Speed, Tally, Window, compare, is_tiny, lost_weight,
            median,
        },
    },
};

/// Connections or requests from one checkpoint of a backend's last ones to the next.
const CHECKPOINT: u64 = 2;
/// Checkpoints that are kept.
const CHECKPOINTS: usize = 4;
/// Peers that speed is compared with at most: each costs a system call.
const MAX_MEASURED_PEERS: usize = 8;

/// Comparison of each backend with its peers, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutlierDetection {
    backends: Vec<Compared>,
    /// The other backends of its first pool.
    peers: Vec<Vec<usize>>,
    snapshot_at: Option<Instant>,
    /// Backends whose answers have become tiny.
    suspects: BTreeMap<usize, Suspect>,
    /// Backends whose weight changed since it was asked last.
    reweighted: Vec<usize>,
}

/// A backend whose answers have become tiny.
#[derive(Clone, Debug)]
struct Suspect {
    /// Latencies of it and its peers at that time.
    before: BTreeMap<usize, Vec<LatencyBuckets>>,
    /// Its requests at that time.
    requests: u64,
    watch: FirstBurstWatch,
}

#[derive(Clone, Debug, Default)]
struct Compared {
    window: Window,
    /// Counts at the begin of its last requests.
    checkpoints: VecDeque<Tally>,
    /// Recent medians of its pool, itself included.
    pool: Peers,
    /// The part of its weight that it loses, in parts of `WHOLE`.
    lost: u32,
}

impl OutlierDetection {
    /// Begins with a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let mut peers = vec![Vec::new(); config.backends.len()];
        for pool in &config.pools {
            for index in &pool.backends {
                if peers[*index].is_empty() {
                    let others = pool.backends.iter().copied();
                    peers[*index] = others.filter(|other| other != index).collect();
                }
            }
        }
        Self {
            backends: vec![Compared::default(); config.backends.len()],
            peers,
            snapshot_at: None,
            suspects: BTreeMap::new(),
            reweighted: Vec::new(),
        }
    }

    /// The part of its weight that a backend loses, in parts of `WHOLE`.
    pub(crate) fn lost(&self, backend: usize) -> u32 {
        self.backends
            .get(backend)
            .map_or(0, |compared| compared.lost)
    }

    /// Forgets what was counted of a backend: it begins anew.
    pub(crate) fn forget(&mut self, backend: usize, all: Tally) {
        self.suspects.remove(&backend);
        if let Some(compared) = self.backends.get_mut(backend) {
            compared.window.clear(all);
            compared.checkpoints.clear();
            compared.lost = 0;
        }
    }

    /// Takes the backends whose weight changed since the last call.
    pub(crate) fn take_reweighted(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.reweighted)
    }

    /// Takes a snapshot of all counts, when it is time to.
    pub(crate) fn compare_all(&mut self, site: &Site, connections: &Connections, now: Instant) {
        let is_early = |at: Instant| now.saturating_duration_since(at) < SNAPSHOT_EVERY;
        if self.snapshot_at.is_some_and(is_early) {
            return;
        }
        self.snapshot_at = Some(now);
        let all: Vec<Tally> = connections.tallies().collect();
        for (compared, tally) in self.backends.iter_mut().zip(&all) {
            compared.window.push(*tally);
        }
        for pool in &site.config.pools {
            let backends = pool.backends.iter();
            let tallies = backends.map(|b| self.backends[*b].window.tally(&all[*b]));
            let summary = Peers::summarize(tallies);
            for backend in &pool.backends {
                self.backends[*backend].pool = summary;
            }
        }
        let lowered: Vec<usize> = (0..all.len())
            .filter(|b| self.backends[*b].lost > 0)
            .collect();
        for backend in lowered {
            self.lower_weight(backend, &all);
        }
    }

    /// Returns whether a backend fails so much more often than its peers that it is to be ejected.
    pub(crate) fn outlier(
        &mut self,
        backend: usize,
        (site, backends): (&Site, &Backends),
        connections: &Connections,
        dataplane: &impl Dataplane,
        now: Instant,
    ) -> Option<Outlier> {
        if self.peers.get(backend)?.is_empty() {
            return None;
        }
        let name = &site.config.backends[backend].name;
        if backends.get(name)?.watch.ejected().is_some() {
            return None;
        }
        let all = connections.tally(backend);
        let compared = &mut self.backends[backend];
        let own = compared.window.tally(&all);
        let recent = compared.recent(&all);
        let tiny = is_tiny(&recent, &compared.pool);
        if !tiny {
            self.suspects.remove(&backend);
        }
        if own.failures() == 0 && compared.lost == 0 && !tiny {
            return None;
        }
        let all: Vec<Tally> = connections.tallies().collect();
        self.lower_weight(backend, &all);
        let peers = self.of_peers(backend, &all);
        let speed = if tiny && is_tiny(&recent, &peers) {
            self.speed(backend, all[backend].requests, (site, dataplane), now)
        } else {
            None
        };
        let outlier = compare(&recent, &peers, speed)?;
        let is_outlier = |other: &BackendState| other.watch.is_outlier();
        let has_room = pool_room::where_others(site, backends, name, is_outlier);
        has_room.then_some(outlier)
    }

    /// Lowers the weight of a backend by the share of connections that it fails, or gives it back.
    fn lower_weight(&mut self, backend: usize, all: &[Tally]) {
        let own = self.backends[backend].window.tally(&all[backend]);
        let lost = match own.failures() {
            0 => 0,
            _ => lost_weight(&own, &self.of_peers(backend, all)),
        };
        let before = std::mem::replace(&mut self.backends[backend].lost, lost);
        if before != lost {
            self.reweighted.push(backend);
        }
    }

    /// Compares how fast a backend and its peers have answered since its answers became tiny. The first time there is
    /// nothing to compare yet.
    fn speed(
        &mut self,
        backend: usize,
        requests: u64,
        (site, dataplane): (&Site, &impl Dataplane),
        at: Instant,
    ) -> Option<Speed> {
        let mut compared = vec![backend];
        compared.extend(self.peers[backend].iter().take(MAX_MEASURED_PEERS));
        let now: BTreeMap<usize, Vec<LatencyBuckets>> = compared
            .into_iter()
            .map(|backend| (backend, measured_of(backend, site, dataplane)))
            .collect();
        let Some(suspect) = self.suspects.get_mut(&backend) else {
            let suspect = Suspect {
                before: now,
                requests,
                watch: FirstBurstWatch::new(at),
            };
            self.suspects.insert(backend, suspect);
            return None;
        };
        let before = &suspect.before;
        let new = |backend: usize, measure: Measure| {
            let (before, now) = (before.get(&backend)?, now.get(&backend)?);
            let index = measure as usize;
            let mut all = Histogram::default();
            for (before, now) in before.iter().zip(now) {
                all.add(&Histogram::since(&now.0[index], &before.0[index]));
            }
            Some(all)
        };
        let half = |histogram: Histogram| {
            let half = histogram.quantile(0.5).filter(|_| histogram.count() > 0)?;
            u32::try_from(half.as_micros()).ok()
        };
        let own = new(backend, Measure::FirstByte)?;
        let goes_on = new(backend, Measure::SecondBurst).is_some_and(|h| h.count() > 0);
        let peers = || self.peers[backend].iter().copied();
        let of_peers = |measure| {
            let halves = peers().filter_map(|peer| half(new(peer, measure)?));
            median(&mut halves.collect::<Vec<u32>>())
        };
        // One burst is less than its peers send only if they send two.
        let usual = of_peers(Measure::SecondBurst).map(|us| Duration::from_micros(us.into()));
        let waiting = requests.saturating_sub(suspect.requests + own.count());
        let bursts = usual.map(|usual| suspect.watch.observe(own.count(), waiting, usual, at));
        if bursts == Some(FirstBursts::Stopped) {
            self.suspects.remove(&backend);
            return None;
        }
        // One that answers nothing has no small answers: it is silent, or was out of reach for a while.
        if own.count() < MIN_ANSWERS {
            return None;
        }
        Some(Speed {
            own_us: half(own)?,
            peers_us: of_peers(Measure::FirstByte)?,
            ends_at_once: bursts == Some(FirstBursts::EndsAtOnce) && !goes_on,
        })
    }

    fn of_peers(&self, backend: usize, all: &[Tally]) -> Peers {
        let peers = self.peers[backend].iter();
        Peers::summarize(peers.map(|peer| self.backends[*peer].window.tally(&all[*peer])))
    }
}

impl Compared {
    /// Counts of its last connections and requests.
    fn recent(&mut self, all: &Tally) -> Tally {
        let last = self.checkpoints.back().copied().unwrap_or_default();
        let new = all.since(&last);
        if self.checkpoints.is_empty() || new.requests.max(new.accepted) >= CHECKPOINT {
            if self.checkpoints.len() >= CHECKPOINTS {
                self.checkpoints.pop_front();
            }
            self.checkpoints.push_back(*all);
        }
        all.since(self.checkpoints.front().unwrap_or(all))
    }
}

fn measured_of(backend: usize, site: &Site, dataplane: &impl Dataplane) -> Vec<LatencyBuckets> {
    let members = site.ids.of_backend(backend).iter();
    let measured = members.map(|(_, id)| dataplane.latency(*id).ok().flatten());
    measured.map(Option::unwrap_or_default).collect()
}
