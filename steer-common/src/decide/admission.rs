//! Admission of new flows: the lowest priority is shed first, and rates are limited per source and
//! in total by the generic cell rate algorithm (ITU-T I.371 annex A), a token bucket with one word
//! of state.

use crate::{
    abi::{Service, SourceKey, service_flags},
    tables::Tables,
    verdict::DropReason,
    wire::Packet,
};

/// Returns the reason why a service or class refuses one more flow now, if it does. CPUs that ask
/// at the same moment may both get the same token: a node of n CPUs admits at most n - 1 additional
/// flows at a time.
///
/// A source's own limit comes first, so that its excess takes no tokens from others.
#[inline(always)]
pub(crate) fn refusal<T: Tables>(
    packet: &Packet,
    tables: &T,
    service: &Service,
) -> Option<DropReason> {
    if service.flags & service_flags::SHEDS != 0 {
        let pressure = tables.with_admission(service.id, |admission| admission.pressure);
        if u32::from(service.priority) < pressure.unwrap_or(0) {
            return Some(DropReason::Shed);
        }
    }
    if service.limit != 0 && !source_takes_flow(packet, tables, service) {
        return Some(DropReason::SourceLimited);
    }
    if service.flow_interval == 0 {
        return None;
    }
    let now = tables.now_coarse_ns();
    let taken = tables.with_admission(service.id, |admission| {
        take_token(
            &mut admission.due,
            now,
            service.flow_interval,
            service.flow_burst,
        )
    });
    if taken == Some(true) {
        None
    } else {
        Some(DropReason::RateLimited)
    }
}

/// Returns whether a client's source may open one more flow now. An unknown or evicted source has
/// its full burst; one that cannot be stored is admitted, since the total limit remains.
#[inline(always)]
fn source_takes_flow<T: Tables>(packet: &Packet, tables: &T, service: &Service) -> bool {
    let Some(limit) = tables.source_limit(service.limit) else {
        return true;
    };
    let now = tables.now_coarse_ns();
    let key = SourceKey {
        source: limit.source(packet.key.source),
        policy: service.id,
        _pad: [0; 3],
    };
    let taken = tables.with_source(&key, |due| {
        take_token(due, now, limit.interval, limit.burst)
    });
    if let Some(taken) = taken {
        return taken;
    }
    tables.set_source(&key, now.wrapping_add(limit.interval as u64));
    true
}

/// Takes a token from a bucket; returns false if it is empty. `due` is the time at which the next
/// one is due at the sustained rate. Times may wrap: a time more than half of their range ahead
/// lies in the past.
#[inline(always)]
fn take_token(due: &mut u64, now: u64, interval: u32, burst: u64) -> bool {
    let ahead = due.wrapping_sub(now);
    // An idle source has at most its burst.
    let ahead = if ahead > u64::MAX / 2 { 0 } else { ahead };
    if ahead > burst {
        return false;
    }
    *due = now.wrapping_add(ahead).wrapping_add(interval as u64);
    true
}

#[cfg(test)]
mod tests {
    use super::take_token;

    /// Returns how many of a number of flows are admitted, at a fixed interval.
    fn taken(due: &mut u64, start: u64, step: u64, flows: u32, interval: u32, burst: u64) -> u32 {
        let at = |n: u32| start.wrapping_add(step.wrapping_mul(n as u64));
        (0..flows)
            .map(|n| u32::from(take_token(due, at(n), interval, burst)))
            .sum()
    }

    #[test]
    fn a_bucket_holds_its_burst_and_is_filled_at_its_rate() {
        for start in [0, 1, 1 << 40, u64::MAX - 5_000, u64::MAX / 2 - 5_000] {
            let mut due = start;
            // Four at once, and then none.
            assert_eq!(taken(&mut due, start, 0, 10, 1000, 3000), 4);
            // One in a thousand, over the wrap of the clock as well.
            assert_eq!(
                taken(&mut due, start.wrapping_add(1), 100, 100, 1000, 3000),
                9,
                "{start}"
            );
            // After a long idle time it has its burst again, and no more.
            let later = start.wrapping_add(1_000_000);
            assert_eq!(taken(&mut due, later, 0, 10, 1000, 3000), 4);
        }
    }

    #[test]
    fn a_clock_that_stands_behind_fills_nothing() {
        let mut due = 10_000;
        // Another CPU wrote it just after `now` was read.
        assert!(take_token(&mut due, 9_999, 10, 100));
        assert_eq!(due, 10_010);
    }
}
