use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const MINUTE: Duration = Duration::from_secs(60);

/// Returns a configuration identified by its port.
fn document(port: u16) -> Document {
    let text = format!(
        "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n[nat]\n\
         addresses = [\"10.0.0.1\"]\n[[backend]]\nname = \"b\"\naddress = \"10.0.1.1\"\n\
         mode = \"nat\"\n[[pool]]\nname = \"p\"\nbackends = [\"b\"]\n[[service]]\nname = \"s\"\n\
         address = \"192.0.2.1\"\nport = {port}\npools = [\"p\"]\n"
    );
    Document::single(Path::new("/etc/steer/steer.toml"), &text)
}

fn bad() -> Result<Document, ConfigError> {
    Ok(Document::single(Path::new("/f.toml"), "[node"))
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> Store {
        Store::open(self.0.path(), 3).unwrap()
    }

    /// Returns the port that a daemon started now would serve, its generation, and its warnings.
    fn start(
        &self,
        file: Result<Document, ConfigError>,
        now: SystemTime,
    ) -> (u16, Option<u64>, Vec<String>) {
        let started = super::start(&mut self.store(), file, now).unwrap();
        let port = started.config.services[0].port;
        (port, started.number, started.warnings)
    }

    fn names(&self) -> Vec<String> {
        let folder = fs::read_dir(self.0.path().join("generations")).unwrap();
        let mut names: Vec<_> = folder
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Activates a new generation.
fn apply(store: &mut Store, port: u16, trial: Option<Duration>) -> u64 {
    let made = store.add(document(port), "test", NOW).unwrap();
    let before = store.active().cloned();
    let file = before.as_ref().map_or("".to_owned(), |s| s.file.clone());
    let standing = match (trial, before) {
        (Some(window), Some(before)) => ActiveGeneration {
            pending: Some(PendingConfirmation {
                number: made.number,
                until: NOW + window,
                window,
            }),
            ..before
        },
        _ => ActiveGeneration::confirmed(made.number, file),
    };
    store.set_active(standing).unwrap();
    store.prune();
    made.number
}

#[test]
fn what_was_written_is_read_and_the_oldest_are_forgotten() {
    let bench = Bench::new();
    let mut store = bench.store();
    assert_eq!(store.active(), None);
    for port in 1..=5 {
        assert_eq!(apply(&mut store, port, None), u64::from(port));
    }
    let store = bench.store();
    assert_eq!(store.active().unwrap().current(), 5);
    assert_eq!(store.rollback_target().unwrap(), Some(4));
    let found = store.generation(4).unwrap();
    assert_eq!((found.document, found.by.as_str()), (document(4), "test"));
    assert!(matches!(store.generation(2), Err(StateError::Unknown(2))));
    let listed: Vec<_> = store.history().unwrap().generations;
    assert_eq!(
        listed.iter().map(|e| e.number).collect::<Vec<_>>(),
        [5, 4, 3]
    );

    // The active generation stays, however old; numbers are not reused.
    let mut store = bench.store();
    store
        .set_active(ActiveGeneration::confirmed(3, String::new()))
        .unwrap();
    for port in 6..=9 {
        let made = store.add(document(port), "test", NOW).unwrap();
        assert_eq!(made.number, u64::from(port));
        store.set_active(store.active().unwrap().clone()).unwrap();
        store.prune();
    }
    let numbers: Vec<_> = store.history().unwrap().generations;
    assert_eq!(
        numbers.iter().map(|e| e.number).collect::<Vec<_>>(),
        [9, 8, 7, 3]
    );
}

#[test]
fn a_flipped_byte_is_noticed() {
    let bench = Bench::new();
    let mut store = bench.store();
    apply(&mut store, 1, None);
    apply(&mut store, 2, None);
    let path = bench.0.path().join("generations/2.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("port = 2", "port = 3")).unwrap();
    let error = store.generation(2).unwrap_err().to_string();
    assert!(error.contains("2.json: its content was changed"), "{error}");
    assert!(store.history().unwrap().generations[0].damage.is_some());
    // A daemon works without it.
    let (port, number, warnings) = bench.start(Ok(document(7)), NOW);
    assert_eq!((port, number), (7, Some(3)));
    assert!(
        warnings[0].contains("generation 2 cannot be used"),
        "{warnings:?}"
    );

    let path = bench.0.path().join("generations/active_generation.json");
    fs::write(&path, "{").unwrap();
    assert!(Store::open(bench.0.path(), 3).is_err());
    // The previous state is used.
    let (store, said) = Store::recover(bench.0.path(), 3).unwrap();
    assert_eq!(store.active().unwrap().current(), 2);
    assert!(said.unwrap().to_string().contains("active_generation.json"));
    assert!(Store::open(bench.0.path(), 3).is_ok());
}

#[test]
fn a_lost_standing_takes_the_one_before() {
    let bench = Bench::new();
    let mut store = bench.store();
    apply(&mut store, 1, None);
    apply(&mut store, 2, None);
    fs::remove_file(bench.0.path().join("generations/active_generation.json")).unwrap();
    let (store, said) = Store::recover(bench.0.path(), 3).unwrap();
    assert_eq!(store.active().unwrap().current(), 1);
    assert!(said.unwrap().to_string().contains("the file is missing"));
    // The file had the same content then, so it does not count as changed.
    let (port, number, _) = bench.start(Ok(document(1)), NOW);
    assert_eq!((port, number), (1, Some(1)));
}

#[test]
fn what_was_reverted_is_passed_over() {
    let bench = Bench::new();
    let mut store = bench.store();
    apply(&mut store, 1, None);
    apply(&mut store, 2, Some(MINUTE));
    assert_eq!(
        outcomes(&store),
        [(2, Outcome::Pending), (1, Outcome::Applied)]
    );
    // The window ends without confirmation.
    store
        .set_active(ActiveGeneration::confirmed(1, String::new()))
        .unwrap();
    apply(&mut store, 3, None);
    let store = bench.store();
    assert_eq!(
        outcomes(&store),
        [
            (3, Outcome::Applied),
            (2, Outcome::Reverted),
            (1, Outcome::Applied)
        ]
    );
    assert_eq!(store.rollback_target().unwrap(), Some(1));
}

#[test]
fn what_somebody_went_back_from_is_reverted_until_it_is_used_again() {
    let bench = Bench::new();
    let mut store = bench.store();
    for port in 1..=3 {
        apply(&mut store, port, None);
    }
    store
        .set_active(ActiveGeneration::confirmed(2, String::new()))
        .unwrap();
    assert_eq!(outcomes(&store)[0], (3, Outcome::Reverted));
    assert_eq!(store.rollback_target().unwrap(), Some(1));
    apply(&mut store, 4, None);
    assert_eq!(store.rollback_target().unwrap(), Some(2));
    store
        .set_active(ActiveGeneration::confirmed(3, String::new()))
        .unwrap();
    assert_eq!(
        outcomes(&store),
        [
            (4, Outcome::Reverted),
            (3, Outcome::Applied),
            (2, Outcome::Applied)
        ]
    );
    // A pending generation that is confirmed was not reverted.
    let pending = apply(&mut store, 5, Some(MINUTE));
    store
        .set_active(ActiveGeneration::confirmed(pending, String::new()))
        .unwrap();
    assert_eq!(outcomes(&store)[0], (5, Outcome::Applied));
    assert_eq!(store.rollback_target().unwrap(), Some(3));
}

/// Returns the outcomes of all stored generations, newest first.
fn outcomes(store: &Store) -> Vec<(u64, Outcome)> {
    let entries = store.history().unwrap().generations.into_iter();
    entries.map(|entry| (entry.number, entry.outcome)).collect()
}

#[test]
fn undo_needs_no_room_and_leaves_what_was() {
    let bench = Bench::new();
    let mut store = bench.store();
    apply(&mut store, 1, None);
    store.restore_active(None).unwrap();
    assert_eq!(bench.store().active(), None);
    apply(&mut store, 2, None);
    let before = store.active().cloned();
    apply(&mut store, 3, None);
    store.restore_active(before.clone()).unwrap();
    assert_eq!(store.active(), before.as_ref());
    assert_eq!(bench.store().active(), before.as_ref());
}

/// A crash leaves a prefix of the steps of an apply; each file is the old or the new one.
#[test]
fn a_crash_between_any_two_steps_leaves_the_old_or_the_new() {
    let old = Bench::new();
    apply(&mut old.store(), 1, None);
    let new = Bench::new();
    apply(&mut new.store(), 1, None);
    apply(&mut new.store(), 2, None);
    let file = |bench: &Bench, name: &str| {
        let path = bench.0.path().join("generations").join(name);
        (fs::read(&path).unwrap(), path)
    };
    let write = |bench: &Bench, name: &str, bytes: &[u8]| {
        fs::write(bench.0.path().join("generations").join(name), bytes).unwrap();
    };
    let port = || {
        let current = old.store().active().unwrap().current();
        old.store().generation(current).unwrap().document
    };
    let (generation, _) = file(&new, "2.json");
    let (standing, _) = file(&new, "active_generation.json");
    for cut in [0, 1, generation.len() / 2, generation.len()] {
        write(&old, "2.json.new", &generation[..cut]);
        assert_eq!(port(), document(1));
    }
    let folder = old.0.path().join("generations");
    fs::rename(folder.join("2.json.new"), folder.join("2.json")).unwrap();
    assert_eq!(port(), document(1));
    let (before, path) = file(&old, "active_generation.json");
    fs::hard_link(path, folder.join("active_generation.before")).unwrap();
    assert_eq!(port(), document(1));
    for cut in [0, 1, standing.len()] {
        write(&old, "active_generation.json.new", &standing[..cut]);
        assert_eq!(port(), document(1));
        assert_eq!(file(&old, "active_generation.json").0, before);
    }
    fs::rename(
        folder.join("active_generation.json.new"),
        folder.join("active_generation.json"),
    )
    .unwrap();
    assert_eq!(port(), document(2));
    // Leftovers do no harm.
    write(&old, "3.json.new", b"half");
    assert_eq!(apply(&mut old.store(), 3, None), 3);
    assert_eq!(port(), document(3));
    assert!(
        !old.names().contains(&"3.json.new".to_owned()),
        "{:?}",
        old.names()
    );
}

#[test]
fn the_first_start_makes_a_generation_of_the_file() {
    let bench = Bench::new();
    assert_eq!(bench.start(Ok(document(1)), NOW), (1, Some(1), vec![]));
    assert_eq!(bench.start(Ok(document(1)), NOW), (1, Some(1), vec![]));
    let empty = Bench::new();
    assert!(start(&mut empty.store(), bad(), NOW).is_err());
    assert!(!empty.0.path().join("generations").exists());
}

#[test]
fn a_file_that_changed_counts_and_one_that_did_not_undoes_nothing() {
    let bench = Bench::new();
    bench.start(Ok(document(1)), NOW);
    assert_eq!(bench.start(Ok(document(2)), NOW), (2, Some(2), vec![]));
    // After a rollback the file still contains 2.
    let mut store = bench.store();
    let file = store.active().unwrap().file.clone();
    store
        .set_active(ActiveGeneration::confirmed(1, file))
        .unwrap();
    assert_eq!(bench.start(Ok(document(2)), NOW), (1, Some(1), vec![]));
    assert_eq!(bench.start(Ok(document(3)), NOW), (3, Some(3), vec![]));
    // An invalid or missing file does not prevent a start.
    let (port, number, warnings) = bench.start(bad(), NOW);
    assert_eq!((port, number), (3, Some(3)));
    assert!(warnings[0].contains("/f.toml:1: "), "{warnings:?}");
    let missing = Document::read(Path::new("/nowhere.toml"));
    assert_eq!(bench.start(missing, NOW).1, Some(3));
    // A file changed to what is in use counts as unchanged.
    apply(&mut bench.store(), 4, None);
    assert_eq!(bench.start(Ok(document(4)), NOW), (4, Some(4), vec![]));
    assert_eq!(bench.start(Ok(document(3)), NOW), (3, Some(5), vec![]));
}

#[test]
fn a_trial_outlives_the_daemon_and_ends_without_one() {
    let bench = Bench::new();
    bench.start(Ok(document(1)), NOW);
    apply(&mut bench.store(), 2, Some(MINUTE));
    let file = || Ok(document(1));
    assert_eq!(bench.start(file(), NOW + MINUTE / 2), (2, Some(2), vec![]));
    assert!(bench.store().active().unwrap().pending.is_some());
    // A file that changes meanwhile has to wait.
    let (port, _, warnings) = bench.start(Ok(document(3)), NOW + MINUTE / 2);
    assert_eq!(port, 2);
    assert!(
        warnings[0].contains("generation 2 has to be confirmed"),
        "{warnings:?}"
    );
    assert_eq!(bench.start(file(), NOW + MINUTE), (1, Some(1), vec![]));
    assert!(bench.store().active().unwrap().pending.is_none());
    assert_eq!(bench.start(file(), NOW), (1, Some(1), vec![]));
}

#[test]
fn a_clock_that_is_set_back_prolongs_no_trial() {
    let trial = PendingConfirmation {
        number: 1,
        until: NOW + 100 * MINUTE,
        window: MINUTE,
    };
    assert_eq!(trial.left(NOW), MINUTE);
    assert_eq!(trial.left(NOW + 100 * MINUTE - MINUTE / 2), MINUTE / 2);
    assert_eq!(trial.left(NOW + 101 * MINUTE), Duration::ZERO);
}
