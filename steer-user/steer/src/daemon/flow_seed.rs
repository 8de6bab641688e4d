//! The seed of the hash of flows: a secret, so that nobody who sends packets chooses where they go.

use std::{
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use steer_core::{config::Node, dataplane::Dataplane, digest::sha256, durable};
use steer_probe::regular_file;
use tracing::{info, warn};

/// Hexadecimal digits of a seed that a file must have: 16 bytes.
const MIN_DIGITS: usize = 32;
/// More is no seed.
const MAX_BYTES: u64 = 4096;
/// File of the state directory with the node's own seed.
const FILE: &str = "flow.seed";
/// The seed of all nodes before it was a secret.
const PUBLIC: u64 = 0x7374_6565_7221_0001;

/// Gives maps that have no flow seed the one that the configuration names, or else the node's own, and maps without a
/// seed for ports of `nat` a random one. Maps in use keep theirs: with another one all flows would go elsewhere at once.
///
/// # Errors
/// If the file that the configuration names does not do.
pub(crate) fn initialize(node: &Node, dataplane: &mut impl Dataplane) -> Result<()> {
    let configured = configured_seed(node)?;
    let mut settings = dataplane.config();
    if settings.nat_port_seed == 0 {
        settings.nat_port_seed = rand::random::<u64>().max(1);
        dataplane.set_config(&settings);
    }
    if settings.flow_seed == 0 {
        settings.flow_seed = configured.unwrap_or_else(|| node_seed(&node.state_dir));
        dataplane.set_config(&settings);
        return Ok(());
    }
    if configured.is_some_and(|seed| seed != settings.flow_seed) {
        warn!(
            "the maps in use keep their flow seed, which is not that of node.flow_seed_file; stop the daemon, \
             `steer detach`, and start it again to use that one: open connections break"
        );
    } else if settings.flow_seed == PUBLIC {
        warn!(
            "the maps in use have the flow seed of older versions, which is no secret; stop the daemon, \
             `steer detach`, and start it again for one that is: open connections break"
        );
    }
    Ok(())
}

/// The seed of the file that the configuration names, if it names one.
///
/// # Errors
/// If the file cannot be read, everybody may read it, or it holds no seed.
pub(crate) fn configured_seed(node: &Node) -> Result<Option<u64>> {
    let Some(path) = &node.flow_seed_file else {
        return Ok(None);
    };
    let seed = read(path).with_context(|| {
        format!(
            "{}: no flow seed (node.flow_seed_file); make one with `umask 027; openssl rand -hex 16`, the same on \
             all nodes behind one router",
            path.display()
        )
    })?;
    Ok(Some(seed))
}

fn read(path: &Path) -> Result<u64> {
    let (mut file, found) = regular_file::open(path)?;
    let mode = found.permissions().mode();
    ensure!(
        mode & 0o007 == 0,
        "everybody may read it (mode {:o}); `chmod o= {}`",
        mode & 0o777,
        path.display()
    );
    let mut text = String::new();
    (&mut file).take(MAX_BYTES).read_to_string(&mut text)?;
    parse(&text)
}

/// The seed that a text in hexadecimal digits stands for.
fn parse(text: &str) -> Result<u64> {
    let digits = text.trim().to_ascii_lowercase();
    ensure!(
        digits.len() >= MIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "it does not hold {MIN_DIGITS} or more hexadecimal digits, and nothing else"
    );
    let digest = sha256(&[b"steer flow seed\n", digits.as_bytes()]);
    let seed = u64::from_str_radix(&digest[..16], 16)?;
    // In maps 0 means that there is none.
    Ok(seed.max(1))
}

/// The node's own seed, which is made if there is none. Where the state directory does not take it, it ends with the
/// maps.
fn node_seed(state_dir: &Path) -> u64 {
    let path = state_dir.join(FILE);
    let found = match durable::read(&path) {
        Ok(text) => parse(&String::from_utf8_lossy(&text)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    };
    match found {
        Ok(Some(seed)) => return seed,
        Ok(None) => {}
        Err(error) => warn!(
            path = %path.display(),
            error = format!("{error:#}"),
            "flow seed not usable, a new one is made"
        ),
    }
    let digits = format!("{:032x}", rand::random::<u128>());
    let written = durable::folder(state_dir)
        .and_then(|()| durable::replace(&path, format!("{digits}\n").as_bytes()));
    match written {
        Ok(()) => info!(path = %path.display(), "flow seed made"),
        Err(error) => warn!(path = %path.display(), %error, "flow seed not saved"),
    }
    // Enough digits, all of them hexadecimal.
    parse(&digits).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use steer_core::{
        config::Config,
        dataplane::{FakeDataplane, SteeringTables as _},
    };

    use super::*;

    const DIGITS: &str = "00112233445566778899aabbccddeeff";

    fn node(folder: &Path, file: bool) -> Node {
        let seed = folder.join("shared.seed");
        let key = if file {
            format!("flow_seed_file = {seed:?}\n")
        } else {
            String::new()
        };
        let text = format!(
            "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\nstate_dir = {:?}\n{key}[nat]\n\
             addresses = [\"10.0.0.1\"]\n[[backend]]\nname = \"b\"\naddress = \"10.0.1.1\"\nmode = \"nat\"\n\
             [[pool]]\nname = \"p\"\nbackends = [\"b\"]\n[[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\n\
             port = 80\npools = [\"p\"]\n",
            folder.join("state")
        );
        Config::parse(&text, Path::new("/f.toml")).unwrap().node
    }

    fn settled(node: &Node) -> u64 {
        let mut maps = FakeDataplane::new();
        initialize(node, &mut maps).unwrap();
        maps.config().flow_seed
    }

    fn write(folder: &Path, text: &str, mode: u32) {
        let path = folder.join("shared.seed");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_seed_for_ports_is_drawn_once() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path(), false);
        let mut maps = FakeDataplane::new();
        initialize(&node, &mut maps).unwrap();
        let seed = maps.config().nat_port_seed;
        assert_ne!(seed, 0);
        initialize(&node, &mut maps).unwrap();
        assert_eq!(maps.config().nat_port_seed, seed);
        let mut others = FakeDataplane::new();
        initialize(&node, &mut others).unwrap();
        assert_ne!(others.config().nat_port_seed, seed);
    }

    #[test]
    fn a_node_keeps_its_own_seed_and_others_have_another() {
        let [one, two] = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let seed = settled(&node(one.path(), false));
        assert_eq!(settled(&node(one.path(), false)), seed);
        assert_ne!(settled(&node(two.path(), false)), seed);
        let path = one.path().join("state").join(FILE);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // One that was damaged is made again, and does not keep the node from starting.
        fs::write(&path, "no seed").unwrap();
        assert_ne!(settled(&node(one.path(), false)), seed);
    }

    #[test]
    fn nodes_with_one_file_agree_and_maps_in_use_keep_theirs() {
        let [one, two] = [0; 2].map(|_| tempfile::tempdir().unwrap());
        write(one.path(), &format!("{DIGITS}\n"), 0o640);
        write(two.path(), &format!(" {}", DIGITS.to_uppercase()), 0o600);
        let seed = settled(&node(one.path(), true));
        assert_eq!(settled(&node(two.path(), true)), seed);
        let mut maps = FakeDataplane::new();
        initialize(&node(one.path(), true), &mut maps).unwrap();
        write(one.path(), &DIGITS.replace('0', "1"), 0o600);
        assert_ne!(
            configured_seed(&node(one.path(), true)).unwrap(),
            Some(seed)
        );
        initialize(&node(one.path(), true), &mut maps).unwrap();
        assert_eq!(maps.config().flow_seed, seed);
    }

    #[test]
    fn a_file_that_everybody_may_read_or_without_a_seed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |says: &str| {
            let error = configured_seed(&node(folder.path(), true)).unwrap_err();
            let text = format!("{error:#}");
            assert!(
                text.contains("shared.seed") && text.contains(says),
                "{text}"
            );
        };
        refused("No such file");
        write(folder.path(), DIGITS, 0o644);
        refused("chmod o=");
        for text in [
            "",
            "0011",
            &format!("0x{DIGITS}"),
            "correct horse battery staple correct horse",
        ] {
            write(folder.path(), text, 0o600);
            refused("hexadecimal digits");
        }
    }
}
