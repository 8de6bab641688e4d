//! A day on which engines often seem to be in trouble but serve their clients, and sometimes really
//! are in trouble.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    fleet::{State, Symptom},
    scenario::{Act, Scenario},
};

/// Number of servers.
const SERVERS: usize = 6;
/// Range of the pause between two episodes of a server in seconds.
const APART_S: [f64; 2] = [60.0, 1000.0];

/// A temporary condition.
#[derive(Clone, Copy, Debug)]
enum Episode {
    Symptom(Symptom),
    Is(State),
}

/// Kinds of episodes, with the range of their duration in seconds.
const EPISODES: [(Episode, [f64; 2]); 5] = [
    (Episode::Symptom(Symptom::SlowPage), [1.0, 30.0]),
    (Episode::Symptom(Symptom::NoProgress), [20.0, 120.0]),
    // Shorter than what makes a server silent, and longer.
    (Episode::Is(State::Paused), [0.02, 0.15]),
    (Episode::Is(State::Paused), [0.5, 4.0]),
    (Episode::Is(State::Dead), [5.0, 40.0]),
];

/// Returns a scenario of slow pages, long prompts, pauses and restarts at random.
#[must_use]
pub fn day(length: Duration, seed: u64) -> Scenario {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acts = Vec::new();
    for server in 0..SERVERS {
        let mut at = random.random_range(APART_S[0]..APART_S[1]);
        while at < length.as_secs_f64() {
            let (episode, [least, most]) = EPISODES[random.random_range(0..EPISODES.len())];
            let end = at + random.random_range(least..most);
            let (begins, ends) = match episode {
                Episode::Symptom(symptom) => (
                    Act::Symptom(server, Some(symptom)),
                    Act::Symptom(server, None),
                ),
                Episode::Is(state) => (
                    Act::State(server, state),
                    Act::State(server, State::Serving),
                ),
            };
            acts.extend(
                [(at, begins), (end, ends)].map(|(at, act)| (Duration::from_secs_f64(at), act)),
            );
            at = end + random.random_range(APART_S[0]..APART_S[1]);
        }
    }
    Scenario {
        regions: vec![SERVERS],
        load: 0.05,
        length,
        acts,
        seed,
        ..Scenario::new("day")
    }
}
