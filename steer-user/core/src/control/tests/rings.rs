//! Backends that are nearer or farther than before.

use std::collections::BTreeSet;

use super::*;

/// The members that new flows of the services go to.
fn firsts(controller: &Controller<Fake>) -> BTreeSet<u16> {
    let choices = controller.dataplane.choices();
    choices.into_iter().map(|(first, _)| first).collect()
}

#[test]
fn tables_for_other_rings_are_built_when_there_is_time() {
    let mut bench = Bench::new();
    let config = {
        let mut text = text(bench.folder.path(), &["a", "b"]);
        text += "[[service]]\nname = \"chat2\"\naddress = \"10.99.0.2\"\nport = 80\npools = [\"all\"]\n";
        Config::parse(&text, Path::new("test.toml")).unwrap()
    };
    let mut controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 20);
    controller.poll(bench.now).unwrap();
    let before = firsts(&controller);
    // It is far now, which all of its answers have to say before it is believed.
    for _ in 0..100 {
        bench.probe(&mut controller, "a", Some(200));
    }
    assert_eq!(
        firsts(&controller),
        before,
        "it waits for the loop to look, and nothing else does"
    );
    controller.poll(bench.now).unwrap();
    let after = firsts(&controller);
    assert_eq!((before.len(), after.len()), (2, 2));
    assert!(before.is_disjoint(&after), "{before:?} became {after:?}");
    // What is down does not wait.
    let (down, now) = (controller.dataplane.states(), after);
    bench.down(&mut controller, "b");
    assert_ne!(controller.dataplane.states(), down);
    assert!(firsts(&controller).is_disjoint(&now));
}
