//! Probes, references, ranges, syntax and paths.

use super::super::Wrong;

pub(super) const CASES: &[Wrong] = &[
    // Probes.
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"http://10.0.1.1:8000/health\"]",
        18,
        "is not a probe method",
        "write http:8000/health",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"https://10.0.1.1/health\"]",
        18,
        "is not a probe method",
        "write https:443/health",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"/health\"]",
        18,
        "\"/health\" is not a probe method",
        "write http:8000/health",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"tcp\"]",
        18,
        "\"tcp\" is not a probe method",
        "write tcp:8000",
    ),
    (
        "beacon = \"10.0.1.1:7100\"",
        "probes = [\"icmp\"]",
        18,
        "\"icmp\" is not a probe method",
        "write beacon, tcp:8000",
    ),
    // References.
    (
        "[\"gpu-1\", \"gpu-2\"]",
        "[]",
        27,
        "pool \"chat\" has no backend",
        "at least one",
    ),
    (
        "[\"gpu-1\", \"gpu-2\"]",
        "[\"gpx-1\"]",
        27,
        "backend \"gpx-1\", which does not exist",
        "did you mean \"gpu-1\"?",
    ),
    (
        "[\"gpu-1\", \"gpu-2\"]",
        "[\"gpu-7\"]",
        27,
        "backend \"gpu-7\", which does not exist",
        "add a [[backend]]",
    ),
    (
        "pools = [\"chat\"]",
        "pools = [\"caht\"]",
        33,
        "pool \"caht\", which does not exist",
        "did you mean \"chat\"?",
    ),
    // Numbers out of their range.
    (
        "[api]",
        "[balance]\nspill_above = 180\n[api]",
        35,
        "180 is out of range",
        "write 1 to 100",
    ),
    // Syntax.
    (
        "name = \"edge-1\"",
        "name = edge-1",
        2,
        "the text of `name` is not in quotes",
        "\"edge-1\"",
    ),
    (
        "name = \"edge-1\"",
        "name = “edge-1”",
        2,
        "typographic quotes",
        "write \" around",
    ),
    (
        "port = 80\n",
        "port =\n",
        31,
        "`port` has no value",
        "write one behind",
    ),
    (
        "port = 80\n",
        "port = # later\n",
        31,
        "`port` has no value",
        "write one behind",
    ),
    ("[node]", "[node", 1, "unclosed table", "write `]`"),
    ("[nat]", "[nat]\nports = yes", 6, "`ports`", "quotes"),
    // Not a path.
    (
        "\"/pki/ca.pem\"",
        "\"pki/ca.pem\"",
        9,
        "\"pki/ca.pem\" is not an absolute path",
        "/etc/steer",
    ),
];
