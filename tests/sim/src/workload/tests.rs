//! Distributions, and visits made of them.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};

use super::{Arrivals, Lengths, Tokens, Visit, Workload, random};
use crate::engine::Profile;

fn mean(count: usize, mut draw: impl FnMut(&mut StdRng) -> f64) -> (f64, f64) {
    let mut random = StdRng::seed_from_u64(1);
    let all: Vec<f64> = (0..count).map(|_| draw(&mut random)).collect();
    let mean = all.iter().sum::<f64>() / count as f64;
    let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64;
    (mean, variance.sqrt() / mean)
}

fn about(value: f64, expected: f64) {
    assert!(
        (value / expected - 1.0).abs() < 0.08,
        "{value} is not about {expected}"
    );
}

#[test]
fn gaps_have_the_rate_and_the_variation_of_their_process() {
    for (arrivals, variation) in [(Arrivals::Poisson, 1.0), (Arrivals::BURSTS, 2.0)] {
        let (gap, varies) = mean(60_000, |r| arrivals.gap(r, 5.0, Duration::ZERO));
        about(gap, 0.2);
        about(varies, variation);
    }
    let day = Arrivals::Day {
        swing: 0.5,
        period: Duration::from_secs(100),
    };
    let (noon, _) = mean(60_000, |r| day.gap(r, 5.0, Duration::from_secs(50)));
    about(noon, 0.2 / 1.5);
}

#[test]
fn lengths_have_the_means_of_their_traces() {
    let of = |tokens: Tokens| mean(60_000, |r| f64::from(tokens.draw(r))).0;
    about(of(Lengths::CONVERSATION.prompt), 1155.0);
    about(of(Lengths::CONVERSATION.output), 211.0);
    about(of(Lengths::CODE.prompt), 2048.0);
    about(of(Lengths::CODE.output), 28.0);
    about(of(Lengths::SHARE_GPT.prompt), 161.0);
    about(of(Lengths::SHARE_GPT.output), 338.0);
}

#[test]
fn counts_of_requests_have_their_mean() {
    about(
        mean(60_000, |r| f64::from(random::geometric(r, 5.0))).0,
        5.0,
    );
    assert_eq!(mean(10, |r| f64::from(random::geometric(r, 1.0))).0, 1.0);
}

#[test]
fn a_session_grows_by_its_prompts_and_answers() {
    let workload = Workload {
        requests: 6.0,
        history: true,
        ..Workload::CONVERSATION
    };
    let visits = (0..20).map(|index| Visit::new(&workload, 1, index));
    let visit = visits.max_by_key(|visit| visit.requests.len()).unwrap();
    for pair in visit.requests.windows(2) {
        assert!(pair[1].history <= pair[0].prompt + pair[0].output);
        assert!(pair[1].prompt > pair[1].history);
    }
    assert!(visit.requests[1].history > 0);
    assert_eq!(visit.requests[0].history, 0);
}

#[test]
fn a_larger_accelerator_saturates_later() {
    let rate = |profile| Workload::CONVERSATION.saturation(profile);
    let (whole, quarter) = (rate(Profile::ACCELERATOR), rate(Profile::QUARTER));
    assert!(whole > 3.0 * quarter, "{whole} {quarter}");
    assert!(rate(Profile::FEW_SLOTS) < whole);
}
