//! Tables of classes.

use std::path::Path;

use steer_common::abi::ServiceKey;

use super::{Bench, fake::Fake, text};
use crate::{
    config::Config,
    control::{Controller, DryRun},
    dataplane::SteeringTables as _,
};

/// A site with one class, whose pool has the backends in `own`.
fn with_class(bench: &Bench, backends: &[&str], own: &[&str], more: &str) -> Config {
    let text = text(bench.folder.path(), backends)
        + &format!(
            "[[pool]]\nname = \"own\"\nbackends = {own:?}\n[[class]]\nname = \"premium\"\n\
             service = \"chat\"\nsources = [\"10.0.0.0/8\"]\npools = [\"own\"]\n{more}"
        );
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

/// First choices and owners of the tables of service and class.
fn tables(controller: &Controller<Fake>) -> Vec<Vec<(u16, u16)>> {
    let distinct = |range: &std::ops::Range<u32>| {
        let slots = controller.dataplane.slots(range.clone());
        let mut found: Vec<_> = slots.iter().map(|s| (s.first, s.owner)).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    controller.site.tables.iter().map(distinct).collect()
}

#[test]
fn a_class_has_a_table_of_its_own_pools() {
    let mut bench = Bench::new();
    let config = with_class(&bench, &["a", "b"], &["b"], "");
    let mut controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    let [service, class] = &tables(&controller)[..] else {
        panic!("two tables");
    };
    assert_eq!(service.iter().map(|(first, _)| *first).max(), Some(2));
    assert_eq!(class, &[(2, 2)]);
    let policies = controller.dataplane.policies();
    let services = controller.dataplane.services();
    assert_eq!(policies.len(), 1);
    assert_eq!(
        ServiceKey {
            class: 0,
            ..policies[0].key
        },
        services[0].key
    );
    assert_ne!(policies[0].id, services[0].id);
    let status = controller.view().status(bench.now).unwrap();
    assert_eq!(status.services[0].classes[0].name, "premium");
    assert_eq!(status.services[0].classes[0].shares["b"], 1.0);
}

#[test]
fn a_new_class_begins_with_the_owners_of_its_service() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    let config = with_class(&bench, &["a", "b"], &["b"], "");
    controller.reconfigure(config.clone(), bench.now).unwrap();
    bench.up(&mut controller, "b", 1);
    assert_eq!(tables(&controller)[1], [(2, 1)]);

    // Another daemon takes the tables up where they are, with the same numbers.
    let before = (
        controller.site.tables.clone(),
        controller.dataplane.policies()[0].id,
    );
    let mut again = Controller::new(config, controller.dataplane, bench.now).unwrap();
    let after = (again.site.tables.clone(), again.dataplane.policies()[0].id);
    assert_eq!(before, after);
    // And one whose configuration has it no more frees them.
    let without = super::config(bench.folder.path(), &["a", "b"]);
    again.reconfigure(without, bench.now).unwrap();
    assert!(again.dataplane.policies().is_empty());
    assert_eq!(again.site.tables.len(), 1);
}

#[test]
fn a_class_has_its_own_regions_and_a_preview_of_its_own() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    let config = with_class(&bench, &["a", "b"], &["b"], "regions = [\"home\"]\n");
    let preview = DryRun::from_controller(&controller, bench.now)
        .preview(&config)
        .unwrap();
    let names: Vec<_> = preview.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["chat", "chat/premium"]);
    assert_eq!(preview.services[0].moved, 0.0);
    assert_eq!(preview.services[1].shares["b"].then, Some(1.0));
    controller.reconfigure(config, bench.now).unwrap();
    let policies = controller.dataplane.policies();
    assert_eq!(policies[0].regions.count_ones(), 1);
    assert_eq!(controller.dataplane.services()[0].regions, u64::MAX);
}
