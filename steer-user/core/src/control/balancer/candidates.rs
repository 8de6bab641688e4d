//! Candidates for new flows of a policy: its chain of pools, and what is known of their members.

use std::time::{Duration, Instant};

use steer_common::abi::MemberState;

use super::flow_rates::FlowRates;
use crate::{
    config::{Backend, FirstToken, PolicyId},
    control::{
        admission::in_flight::is_hot,
        backends::Backends,
        health::{
            claims::{View, limit_claims},
            outlier_detection::OutlierDetection,
            panic_mode::{self, PanicMode},
            passive_latency::PassiveLatency,
        },
        site::Site,
    },
    dataplane::Dataplane,
    domain::{
        balance::{Member, Pool},
        load::WHOLE,
    },
};

/// Chain of pools that new flows of a policy may go to, and their members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) pools: Vec<Pool>,
    pub(crate) members: Vec<Member>,
    /// Ids of the members.
    pub(crate) ids: Vec<u16>,
    /// Whether new flows avoid the members for their load.
    pub(crate) hot: Vec<bool>,
}

/// All that candidates depend on.
pub(crate) struct CandidateInputs<'a, D> {
    pub(crate) site: &'a Site,
    pub(crate) dataplane: &'a D,
    pub(crate) backends: &'a Backends,
    pub(crate) panic: &'a PanicMode,
    pub(crate) outliers: &'a OutlierDetection,
    pub(crate) passive: &'a PassiveLatency,
    pub(crate) rates: &'a FlowRates,
    pub(crate) now: Instant,
}

impl<D: Dataplane> CandidateInputs<'_, D> {
    /// The candidates of a policy.
    pub(crate) fn get(&self, policy: usize) -> Option<Candidates> {
        let id = self.site.policies[policy];
        let settings = self.site.config.policy(id);
        let panics = self.panic.is_on(&settings.name());
        let mut found = Candidates::default();
        let mut seen = Vec::new();
        let mut views = Vec::new();
        for (place, pool) in settings.pools.iter().enumerate() {
            found.pools.push(self.pool(id, place));
            for index in &self.site.config.pools[*pool].backends {
                // In a later pool a backend is no further choice.
                if seen.contains(index) {
                    continue;
                }
                seen.push(*index);
                let backend = &self.site.config.backends[*index];
                // The kernel would refuse it.
                if !settings.may_use(backend) {
                    continue;
                }
                let id = self.site.ids.members[&(id.service, *index)];
                let (mut member, view) = self.member(*index, id, place)?;
                let up = self.dataplane.member(id).state == MemberState::Up as u8;
                member.healthy = up && (panics || self.backends.is_sound(backend));
                views.push(view);
                found.ids.push(id);
                found.hot.push(is_hot(self.dataplane, id));
                found.members.push(member);
            }
        }
        limit_claims(&mut found.members, &views);
        Some(found)
    }

    /// A member, but for its health; and what this node measured of it.
    fn member(&self, index: usize, id: u16, pool: usize) -> Option<(Member, View)> {
        let config = &self.site.config;
        let backend: &Backend = &config.backends[index];
        let state = self.backends.get(&backend.name)?;
        let micros = |d: Duration| u32::try_from(d.as_micros()).ok();
        let rtt = state.rtt().and_then(micros);
        let observed = self.passive.observed(id);
        let measured = match backend.first_token {
            FirstToken::FirstByte => observed.first_byte_us,
            FirstToken::SecondBurst => observed.second_burst_us,
        };
        let capacity = state.weight.unwrap_or(backend.capacity);
        let view = View {
            pool,
            measured_us: measured,
            busy_us: observed
                .busy_us
                .map(|busy| busy / u64::from(capacity.max(1))),
        };
        let member = Member {
            name: backend.name.clone(),
            pool,
            ring: state.ring(backend, &config.node),
            healthy: false,
            capacity,
            cost: backend.cost,
            load: state.load.fresh(config.balance.stale_after, self.now),
            answers_us: measured.or(state.first_token_us).max(rtt),
            first_token_us: measured.or(state.first_token_us),
            lossy: state.loss.lossy(),
            lost: self.outliers.lost(index),
            max_gain: None,
        };
        Some((member, view))
    }

    fn pool(&self, id: PolicyId, place: usize) -> Pool {
        let settings = self.site.config.policy(id);
        let index = settings.pools[place];
        let pool = &self.site.config.pools[index];
        let percent = |share: u32| share * (WHOLE / 100);
        let split = settings.split.iter().find(|(at, _)| *at == place);
        let rate = self.rates.per_second(id.service);
        let most_now = pool.max_new_flows.map(|most| {
            let share = f64::from(most) / rate.max(1.0);
            (share.min(1.0) * f64::from(WHOLE)) as u32
        });
        Pool {
            name: pool.name.clone(),
            split: split.map(|(_, share)| percent(*share)),
            most: (pool.max_share < 100).then(|| percent(pool.max_share)),
            most_now,
            overflow: pool.overflow || panic_mode::is_thin(self.site, self.backends, id, index),
        }
    }
}
