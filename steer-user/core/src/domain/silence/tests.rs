use super::*;

const MS: Duration = Duration::from_millis(1);
const WELL: PeerTraffic = PeerTraffic {
    direct: false,
    others: true,
    well: true,
    confirmable: false,
    outlier: None,
};

fn traffic(flows: u64, requests: u64, answers: u64) -> Traffic {
    Traffic {
        flows,
        requests,
        answers,
    }
}

/// A backend with a clock that advances by 20 ms.
struct Bench {
    silence: Silence,
    now: Instant,
    around: PeerTraffic,
}

impl Bench {
    /// Creates one that is known to send ten packets per connection.
    fn new(direct: bool) -> Self {
        let mut bench = Self {
            silence: Silence::default(),
            now: Instant::now(),
            around: PeerTraffic { direct, ..WELL },
        };
        for _ in 0..100 {
            assert_eq!(bench.step(bench.usual()), None);
        }
        bench
    }

    fn usual(&self) -> Traffic {
        match self.around.direct {
            false => traffic(1, 1, 10),
            // One acknowledgement belongs to the handshake.
            true => traffic(1, 0, 11),
        }
    }

    fn step(&mut self, new: Traffic) -> Option<Change> {
        self.now += 20 * MS;
        self.silence.observe(&new, self.around, self.now)
    }

    /// Returns the time until the first change in milliseconds, if there is one within a number of
    /// steps.
    fn until(&mut self, steps: u64, new: Traffic) -> Option<(u64, Change)> {
        (1..=steps).find_map(|n| Some((n * 20, self.step(new)?)))
    }
}

#[test]
fn a_backend_that_says_nothing_any_more_is_silent() {
    for direct in [false, true] {
        let mut bench = Bench::new(direct);
        let asked = match direct {
            false => traffic(1, 1, 0),
            true => traffic(1, 0, 1),
        };
        let (after, change) = bench.until(50, asked).unwrap();
        assert_eq!(change, Change::Silent);
        assert!((150..=250).contains(&after), "{after} ms, direct: {direct}");
        assert_eq!(bench.until(100, asked), None, "it is said once");
        let (_, change) = bench.until(3, traffic(0, 0, 500)).unwrap();
        assert_eq!(change, Change::Answers);
    }
}

#[test]
fn connections_that_nobody_takes_are_silence() {
    let mut bench = Bench::new(true);
    let (after, change) = bench.until(50, traffic(1, 0, 0)).unwrap();
    assert_eq!(change, Change::Silent);
    assert!(after <= 250, "{after} ms");
}

#[test]
fn heads_of_answers_are_no_answers() {
    for direct in [false, true] {
        let mut bench = Bench::new(direct);
        // One packet for each connection.
        let heads = match direct {
            false => traffic(1, 1, 1),
            true => traffic(1, 0, 2),
        };
        let found = bench.until(50, heads);
        assert!(matches!(found, Some((_, Change::Silent))), "{direct}");
        // Where answers are single packets, this is normal.
        let mut short = Bench {
            silence: Silence::default(),
            ..bench
        };
        assert_eq!(short.until(500, heads), None, "{direct}");
    }
}

#[test]
fn few_requests_and_long_ones_are_no_silence() {
    let mut bench = Bench::new(false);
    assert_eq!(bench.step(traffic(1, 1, 0)), None);
    assert_eq!(bench.until(200, traffic(0, 0, 0)), None);
    // One each second, with a silence as long.
    for _ in 0..20 {
        assert_eq!(bench.step(traffic(1, 1, 0)), None);
        assert_eq!(bench.until(59, traffic(0, 0, 0)), None);
    }
}

#[test]
fn it_takes_others_that_answer_and_something_known() {
    let mut bench = Bench::new(false);
    bench.around.others = false;
    assert_eq!(bench.until(500, traffic(1, 1, 0)), None);
    bench.around.others = true;
    assert_eq!(bench.step(traffic(1, 1, 0)), Some(Change::Silent));
    let mut unknown = Bench {
        silence: Silence::default(),
        ..bench
    };
    assert_eq!(unknown.until(500, traffic(1, 1, 0)), None);
}

#[test]
fn who_went_on_after_a_silence_is_waited_for_twice_as_long() {
    let mut bench = Bench::new(false);
    let mut waited = Vec::new();
    for _ in 0..2 {
        let (after, _) = bench.until(500, traffic(1, 1, 0)).unwrap();
        waited.push(after);
        assert_eq!(bench.until(30, traffic(1, 1, 0)), None);
        while bench.step(bench.usual()).is_none() {}
    }
    assert!(waited[1] >= 2 * waited[0], "{waited:?}");
    // A minute later it counts half, and a dead backend teaches nothing.
    let before = bench.silence.limit(bench.now);
    bench.now += HALF_LIFE;
    assert_eq!(bench.silence.limit(bench.now), before / 2);
    bench.silence = Bench::new(false).silence;
    bench.around.well = false;
    assert!(bench.until(500, traffic(1, 1, 0)).is_some());
    bench.around.well = true;
    while bench.step(bench.usual()).is_none() {}
    assert_eq!(bench.silence.limit(bench.now), MIN_SILENCE);
}

#[test]
fn a_backend_that_streams_is_never_silent_however_much_is_asked() {
    let mut bench = Bench::new(false);
    for step in 0..2000_u64 {
        // Bursts of requests with a long wait, and one stream that continues.
        let burst = if step % 100 == 0 { 30 } else { 0 };
        assert_eq!(bench.step(traffic(burst, burst, 4)), None, "{step}");
    }
}
