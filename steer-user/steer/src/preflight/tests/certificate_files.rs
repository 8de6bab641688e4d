//! Certificates and keys.

use super::*;

#[test]
fn a_key_of_another_certificate_is_fatal_wherever_it_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    pki::init(folder.path()).unwrap();
    for name in ["n1", "other"] {
        let identity = pki::Identity::new(pki::IdentityKind::Node, "eu", name).unwrap();
        let validity = pki::Validity::for_next(Duration::from_secs(90 * 86_400));
        pki::issue(folder.path(), &identity, validity, &[]).unwrap();
    }
    std::fs::write(folder.path().join("garbage"), [0x80, 0xff, 0x00]).unwrap();
    let mut config = config();
    config.node.interfaces = vec!["no-such-if".to_owned()];
    for (files, key, says) in [
        (
            ["ca.pem", "n1.pem", "other.key"],
            "key",
            "other.key does not belong to the certificate",
        ),
        (
            ["ca.pem", "n1.key", "n1.key"],
            "cert",
            "it is a private key, not a certificate",
        ),
        (["garbage", "n1.pem", "n1.key"], "ca", "it is not text"),
        (
            ["n1.key", "n1.pem", "n1.key"],
            "ca",
            "it is a private key, not a certificate",
        ),
        (
            ["ca.pem", "n1.pem", "other.pem"],
            "key",
            "not usable as PEM",
        ),
    ] {
        let [ca, cert, own] = files.map(|file| folder.path().join(file));
        config.probe.files = Some(steer_core::config::ProbeFiles { ca, cert, key: own });
        let findings = check(&config);
        let fatal: Vec<_> = findings
            .iter()
            .filter(|f| f.key.is_some_and(|(section, _)| section == "probe"))
            .collect();
        let [found] = &fatal[..] else {
            panic!("{files:?}: {findings:#?}");
        };
        assert_eq!(
            (found.severity, found.key),
            (Severity::Fatal, Some(("probe", key))),
            "{files:?}"
        );
        assert!(found.to_string().contains(says), "{says:?}: {found}");
    }
}

#[test]
fn certificates_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let issue = |name: &str, days: u64| {
        let identity = pki::Identity::new(pki::IdentityKind::Node, "eu", name).unwrap();
        let life = Duration::from_secs(days * 86_400);
        let validity = pki::Validity::for_next(life);
        pki::issue(folder.path(), &identity, validity, &[]).unwrap();
    };
    pki::init(folder.path()).unwrap();
    issue("n1", 90);
    issue("n2", 90);
    let said = |name: &str, now: SystemTime| {
        let path = |end: &str| folder.path().join(end);
        let mut config = config();
        config.probe.files = Some(steer_core::config::ProbeFiles {
            ca: path("ca.pem"),
            cert: path(&format!("{name}.pem")),
            key: path(&format!("{name}.key")),
        });
        let findings = certificates::check(&config, now);
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    assert_eq!(said("n1", now), [""; 0]);
    assert!(said("n1", now + 80 * day)[0].contains("it ends "));
    assert!(said("n1", now + 91 * day)[0].contains("it ended "));
    let early = said("n1", now - 30 * day);
    assert!(early[0].contains("set-ntp true"), "{early:?}");
    assert!(said("n2", now)[0].contains("this node is n1 in eu"));
    assert!(said("none", now)[0].contains("steer pki issue node"));
}

#[test]
fn certificates_of_the_api_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let day = Duration::from_secs(86_400);
    let issue = |of: &Path, kind, name: &str, days: u32| {
        let identity = pki::Identity::new(kind, "eu", name).unwrap();
        pki::issue(of, &identity, pki::Validity::for_next(days * day), &[]).unwrap();
    };
    let other = place("other");
    for of in [folder.path(), &other] {
        pki::init(of).unwrap();
        issue(of, pki::IdentityKind::Api, "n1-api", 90);
    }
    issue(folder.path(), pki::IdentityKind::Operator, "alice", 90);
    let said = |[cert, key, ca]: [&str; 3], now: SystemTime| {
        let mut config = config();
        config.api.remote = Some(steer_core::config::Remote {
            address: "10.0.0.1:9443".parse().unwrap(),
            cert: place(cert),
            key: place(key),
            ca: place(ca),
        });
        let findings = certificates::check(&config, now);
        // The API still answers on the socket.
        assert!(findings.iter().all(|f| f.severity == Severity::Warning));
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let good = ["n1-api.pem", "n1-api.key", "ca.pem"];
    let now = SystemTime::now();
    assert_eq!(said(good, now), [""; 0]);
    let anew = "`steer pki issue api n1-api --region eu --host 10.0.0.1`";
    for (files, when, says) in [
        (good, now + 80 * day, &["it ends ", anew][..]),
        (good, now + 91 * day, &["it ended ", anew]),
        (good, now - 30 * day, &["set-ntp true"]),
        (
            ["none.pem", "n1-api.key", "ca.pem"],
            now,
            &["[api] cert and key", "none.pem", "`steer pki issue api`"],
        ),
        (
            ["n1-api.pem", "none.key", "ca.pem"],
            now,
            &["none.key", "`steer pki issue api`"],
        ),
        (
            ["n1-api.pem", "n1-api.pem", "ca.pem"],
            now,
            &["n1-api.pem: not usable as PEM"],
        ),
        (
            ["n1-api.pem", "n1-api.key", "none.pem"],
            now,
            &["[api] ca", "none.pem"],
        ),
        (
            ["n1-api.pem", "other/n1-api.key", "ca.pem"],
            now,
            &[
                "other/n1-api.key",
                "does not belong to the certificate",
                anew,
            ],
        ),
        (
            ["n1-api.pem", "n1-api.key", "other/ca.pem"],
            now,
            &["other/ca.pem", "another CA issued it", anew],
        ),
        (
            ["alice.pem", "alice.key", "ca.pem"],
            now,
            &["it is for steer://operator/eu/alice", "kind api", anew],
        ),
    ] {
        let said = said(files, when);
        let [said] = &said[..] else {
            panic!("{files:?}: {said:#?}");
        };
        for part in says {
            assert!(said.contains(part), "{files:?}: {part:?} is not in {said}");
        }
    }
    // Ten years later all have expired, and the CA counts even with one half of another pair.
    let late = said(good, now + 3700 * day);
    assert!(
        late.len() == 2
            && late[0].contains("ca.pem: it ended ")
            && late[0].contains("steer pki init"),
        "{late:?}"
    );
}

#[test]
fn the_authority_of_a_collector_is_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    pki::init(folder.path()).unwrap();
    let said = |ca: Option<&str>, now: SystemTime| {
        let mut config = config();
        config.otlp = Some(steer_core::config::Otlp {
            host: "collector".to_owned(),
            port: 4318,
            path: "/v1/metrics".to_owned(),
            ca: ca.map(|ca| folder.path().join(ca)),
            interval: Duration::from_secs(15),
        });
        let findings = certificates::check(&config, now);
        assert!(findings.iter().all(|f| f.severity == Severity::Warning));
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let now = SystemTime::now();
    let late = now + Duration::from_secs(3700 * 86_400);
    assert_eq!(said(None, now), [""; 0]);
    assert_eq!(said(Some("ca.pem"), now), [""; 0]);
    let [ended] = &said(Some("ca.pem"), late)[..] else {
        panic!("not one finding");
    };
    assert!(ended.contains("ca.pem: it ended "), "{ended}");
    // A key is not a certificate.
    for wrong in ["none.pem", "ca.key"] {
        let [unusable] = &said(Some(wrong), now)[..] else {
            panic!("not one finding of {wrong}");
        };
        for part in ["[telemetry] otlp_ca", wrong, "metrics cannot be exported"] {
            assert!(unusable.contains(part), "{part:?} is not in {unusable}");
        }
    }
}
