use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    time::Instant,
};

use super::*;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Opens the journal, writes a number of events, and returns the number of truncated bytes.
    fn write(&self, events: u16, limits: Limits) -> u64 {
        let (journal, cut) = Journal::open(self.0.path(), limits).unwrap();
        for member in 0..events {
            journal.write(Instant::now(), Event::MemberReleased { member });
        }
        journal.flush();
        cut
    }

    fn verify(&self) -> Verified {
        verify(self.0.path(), None).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = read::files(self.0.path()).unwrap();
        files.into_iter().map(|(_, path)| path).collect()
    }

    fn damage(&self) -> Vec<String> {
        let root = format!("{}/", self.0.path().display());
        let text = |d: &Located<Damage>| d.to_string().replace(&root, "");
        self.verify().damage.iter().map(text).collect()
    }
}

const LIMITS: Limits = Limits {
    file_bytes: 1 << 20,
    files: 4,
};

#[test]
fn events_are_read_as_they_were_written() {
    let bench = Bench::new();
    assert_eq!(bench.write(3, LIMITS), 0);
    assert_eq!(bench.write(2, LIMITS), 0);
    let records: Vec<_> = records(bench.0.path())
        .unwrap()
        .map(|r| r.unwrap().item)
        .collect();
    let seqs: Vec<_> = records.iter().map(|r| r.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    assert_eq!(records[4].event, Event::MemberReleased { member: 1 });
    let verified = bench.verify();
    assert_eq!((verified.good, verified.seq), (5, Some((1, 5))));
    assert!(verified.damage.is_empty() && verified.torn.is_none());
    let head = verified.head.unwrap();
    assert!(verify(bench.0.path(), Some(&head)).unwrap().found);
    assert!(!verify(bench.0.path(), Some("other")).unwrap().found);
}

/// Checks that for any flipped byte `verify` names its line, and no other.
#[test]
fn every_flipped_byte_is_found_with_its_line() {
    let bench = Bench::new();
    bench.write(4, LIMITS);
    let path = bench.files().remove(0);
    let good = fs::read(&path).unwrap();
    let mut line = 1;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let found = bench.verify();
        let lines: Vec<_> = found.damage.iter().map(|d| d.line).collect();
        if good[at] == b'\n' {
            // Two lines became one, or the last one has no end.
            assert!(
                lines.contains(&line) || found.torn.is_some(),
                "{at}: {lines:?}"
            );
            line += 1;
        } else {
            assert_eq!(lines, [line], "byte {at}");
        }
    }
    assert_eq!(line, 5);
}

#[test]
fn lines_that_are_missing_or_exchanged_are_found() {
    let bench = Bench::new();
    bench.write(5, LIMITS);
    let path = bench.files().remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    let write = |lines: &[&str]| fs::write(&path, lines.concat()).unwrap();
    write(&[lines[0], lines[1], lines[3], lines[4]]);
    let damage = bench.damage();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(
        damage[0].starts_with("000000000001.jsonl:3: this is line 4 where 3 was expected"),
        "{damage:?}"
    );
    write(&[lines[0], lines[2], lines[1], lines[3], lines[4]]);
    assert_eq!(bench.verify().damage[0].line, 2);
    // Changing a line and its own hash requires changing the next line, too.
    let body = lines[1].replace("\"member\":1", "\"member\":9");
    let body = &body["{\"hash\":\"".len() + 64 + 2..body.len() - 1];
    let forged = format!(
        "{{\"hash\":\"{}\",{body}\n",
        crate::digest::sha256(&[body.as_bytes()])
    );
    write(&[lines[0], &forged, lines[2], lines[3], lines[4]]);
    let damage = bench.damage();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].contains(":3: the previous line"), "{damage:?}");
}

#[test]
fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
    let bench = Bench::new();
    bench.write(2, LIMITS);
    let path = bench.files().remove(0);
    let two = fs::read(&path).unwrap();
    bench.write(1, LIMITS);
    let three = fs::read(&path).unwrap();
    for end in two.len() + 1..three.len() {
        fs::write(&path, &three[..end]).unwrap();
        let verified = bench.verify();
        assert!(verified.damage.is_empty());
        assert_eq!(verified.torn.map(|torn| torn.line), Some(3));
        assert_eq!(bench.write(1, LIMITS), (end - two.len()) as u64);
        let verified = bench.verify();
        assert_eq!((verified.good, verified.seq), (3, Some((1, 3))), "{end}");
        assert!(verified.torn.is_none());
    }
    // A new file without lines.
    fs::write(&path, &two).unwrap();
    fs::write(read::path(bench.0.path(), 3), "").unwrap();
    assert_eq!(bench.write(1, LIMITS), 0);
    assert_eq!(bench.verify().seq, Some((1, 3)));
}

#[test]
fn a_line_that_was_changed_stays_and_the_journal_goes_on() {
    let bench = Bench::new();
    bench.write(2, LIMITS);
    let path = bench.files().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"member\":1", "\"member\":7")).unwrap();
    bench.write(2, LIMITS);
    let verified = bench.verify();
    assert_eq!(verified.seq, Some((1, 4)));
    assert_eq!(verified.damage.len(), 1);
    assert_eq!(
        (verified.damage[0].line, &verified.damage[0].item),
        (2, &Damage::Changed)
    );
}

#[test]
fn files_are_rotated_and_the_chain_goes_on_over_them() {
    let bench = Bench::new();
    let limits = Limits {
        file_bytes: 1000,
        files: 3,
    };
    bench.write(40, limits);
    let files = bench.files();
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|f| fs::metadata(f).unwrap().len() < 1500));
    let verified = bench.verify();
    assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    let (first, last) = verified.seq.unwrap();
    assert!(first > 1 && last == 40, "{first} {last}");
    // A whole missing file in the middle is detected.
    fs::remove_file(&files[1]).unwrap();
    assert_eq!(bench.damage().len(), 1);
}

#[test]
fn what_could_not_be_written_is_told_once_it_can() {
    let bench = Bench::new();
    let folder = bench.0.path().join("journal");
    // A file is in the place of the folder.
    fs::write(&folder, "").unwrap();
    let (journal, _) = Journal::open(&folder, LIMITS).unwrap();
    for member in 0..3 {
        journal.write(Instant::now(), Event::MemberReleased { member });
    }
    journal.flush();
    fs::remove_file(&folder).unwrap();
    let end = Instant::now() + std::time::Duration::from_secs(30);
    let mut sent = 3;
    while records(&folder).unwrap().count() == 0 {
        assert!(Instant::now() < end, "it is not written again");
        journal.write(Instant::now(), Event::MemberReleased { member: 9 });
        journal.flush();
        sent += 1;
    }
    let records: Vec<_> = records(&folder)
        .unwrap()
        .map(|r| r.unwrap().item.event)
        .collect();
    assert_eq!(
        records,
        [
            Event::Gap { lost: sent - 1 },
            Event::MemberReleased { member: 9 }
        ]
    );
}

#[test]
fn a_reader_sees_a_line_that_is_being_written_as_torn() {
    let bench = Bench::new();
    bench.write(1, LIMITS);
    let path = bench.files().remove(0);
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"{\"hash\":\"").unwrap();
    assert_eq!(records(bench.0.path()).unwrap().count(), 1);
    assert_eq!(bench.verify().torn.unwrap().item, Damage::Torn { bytes: 9 });
}
