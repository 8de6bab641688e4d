//! Limits to what a beacon's reports move: as far as this node's own measurements bear them out.

use crate::domain::{balance::Member, load::WHOLE, outliers::median};

/// The most that reports alone may gain a backend, in parts of its share.
const MAX_GAIN: u32 = WHOLE / 4 * 5;
/// The most that is borne out by what this node sees.
const MAX_BORNE_OUT: u64 = 4;
/// A report of less than this part of the peers' time to the first token counts as this part.
const FASTEST_CLAIM: u32 = 2;

/// Measurements of a candidate by this node itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// The index of its pool.
    pub(crate) pool: usize,
    /// Microseconds to its first token.
    pub(crate) measured_us: Option<u32>,
    /// Time that its requests were in progress, for each unit of its capacity.
    pub(crate) busy_us: Option<u64>,
}

/// Limits what candidates gain by their reports. A report of little use gains no more than a quarter, unless this node
/// sees fewer requests in progress there than at its peers. A report of a short time to the first token, where this
/// node measures none, counts as half of the peers' time at least.
pub(crate) fn limit_claims(members: &mut [Member], views: &[View]) {
    for (index, view) in views.iter().enumerate() {
        let peers = || {
            let all = views.iter().enumerate();
            all.filter(move |(other, v)| *other != index && v.pool == view.pool)
        };
        let mut busy: Vec<u64> = peers().filter_map(|(_, v)| v.busy_us).collect();
        let gain = match (view.busy_us, median(&mut busy)) {
            (Some(own), Some(peers)) => {
                let most = u64::from(MAX_GAIN) * MAX_BORNE_OUT;
                let gain = u64::from(MAX_GAIN).saturating_mul(peers) / own.max(1);
                gain.clamp(MAX_GAIN.into(), most) as u32
            }
            _ => MAX_GAIN,
        };
        members[index].max_gain = Some(gain);
        if view.measured_us.is_some() {
            continue;
        }
        let mut times: Vec<u32> = peers()
            .filter_map(|(other, _)| members[other].first_token_us)
            .collect();
        let member = &mut members[index];
        if let (Some(_), Some(answers), Some(peers)) =
            (member.first_token_us, member.answers_us, median(&mut times))
        {
            member.answers_us = Some(answers.max(peers / FASTEST_CLAIM));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(first_token_us: u32) -> Member {
        Member {
            first_token_us: Some(first_token_us),
            answers_us: Some(first_token_us),
            ..Member::default()
        }
    }

    #[test]
    fn a_claim_that_nobody_measured_counts_for_half_of_the_peers_time() {
        let mut members = vec![member(1), member(80_000), member(100_000)];
        let mut views = [View::default(); 3];
        limit_claims(&mut members, &views);
        let times: Vec<_> = members.iter().filter_map(|m| m.answers_us).collect();
        assert_eq!(times, [50_000, 80_000, 100_000]);
        assert!(members.iter().all(|m| m.max_gain == Some(MAX_GAIN)));
        // One that is that fast is measured so.
        members[0] = member(1_000);
        views[0].measured_us = Some(1_000);
        limit_claims(&mut members, &views);
        assert_eq!(members[0].answers_us, Some(1_000));
    }

    #[test]
    fn what_the_node_sees_bears_a_gain_out() {
        let mut members = vec![member(10); 3];
        let views = [400, 1_000, 1_200].map(|busy| View {
            busy_us: Some(busy),
            ..View::default()
        });
        limit_claims(&mut members, &views);
        let gains: Vec<_> = members.iter().filter_map(|m| m.max_gain).collect();
        assert_eq!(gains, [MAX_GAIN * 3, MAX_GAIN / 5 * 6, MAX_GAIN]);
    }
}
