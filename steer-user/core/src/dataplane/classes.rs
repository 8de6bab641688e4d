//! Classes in the kernel's form: a table from DSCP to class for each prefix, computed in advance.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
};

use anyhow::{Result, bail, ensure};
use steer_common::abi::{
    self, Address, ClassKey, ClassMatch, DSCPS, DscpTable, Family, MAX_CLASS_POLICIES,
    MAX_DSCP_TABLES, MAX_SOURCE_LIMITS, Service, SourceLimit,
};

use super::prefix;

/// A class of a service's clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Policy of the class. Its key is that of the service plus a hash of the class's name.
    pub policy: Service,
    /// Source prefixes of its clients; empty means all.
    pub sources: Vec<(IpAddr, u8)>,
    /// DSCPs of its clients; empty means all.
    pub dscp: Vec<u8>,
}

/// Bit of a scope that marks it as valid.
const IN_USE: u16 = 1 << 14;
/// Position of the bank number in a scope.
const BANK_SHIFT: u32 = 15;
const _: () = assert!(abi::MAX_SERVICE_ENTRIES <= IN_USE as u32);

/// Contents of one bank.
#[derive(Debug, Default)]
pub struct Bank {
    /// Policies by index; index 0 is unused.
    pub policies: Vec<Service>,
    /// Keys of the trie, with the number of significant address bits.
    pub prefixes: HashMap<(ClassKey, u32), ClassMatch>,
    /// Tables by index; index 0 is unused.
    pub tables: Vec<DscpTable>,
    /// Limits by index; index 0 is unused.
    pub limits: Vec<SourceLimit>,
}

/// Returns whether a key of the trie belongs to a bank.
pub fn is_of_bank(key: &ClassKey, bank: u32) -> bool {
    u32::from(key.scope()) >> BANK_SHIFT == bank
}

/// Computes the classes of a bank, and stores references to them in their services.
///
/// The longest prefix decides. Among classes with the same prefix, those with a DSCP come first;
/// the remaining DSCPs go to the class without one, then to shorter prefixes.
///
/// # Errors
///
/// Returns an error if the maps are too small, or a class belongs to no service.
pub fn build(
    bank: u32,
    services: &mut [Service],
    classes: &[Class],
    limits: &[SourceLimit],
) -> Result<Bank> {
    ensure!(
        limits.len() < MAX_SOURCE_LIMITS as usize,
        "more source limits than the maximum of {}",
        MAX_SOURCE_LIMITS - 1
    );
    let limited = |policy: &Service| Service {
        limit: match policy.limit {
            0 => 0,
            limit => limit + (bank * MAX_SOURCE_LIMITS) as u16,
        },
        ..*policy
    };
    ensure!(
        classes.len() < MAX_CLASS_POLICIES as usize,
        "more classes than the maximum of {}",
        MAX_CLASS_POLICIES - 1
    );
    let mut built = Bank {
        policies: vec![Service::default()],
        prefixes: HashMap::new(),
        tables: vec![DscpTable([0; DSCPS])],
        limits: vec![SourceLimit::default()],
    };
    built.limits.extend(limits);
    let mut known = HashMap::new();
    for service in services {
        *service = limited(service);
        let own: Vec<(u16, &Class)> = (1..)
            .map(|index: u32| (bank * MAX_CLASS_POLICIES + index) as u16)
            .zip(classes)
            .filter(|(_, class)| is_of(class, service))
            .collect();
        if own.is_empty() {
            service.classes = 0;
            continue;
        }
        service.classes = (bank << BANK_SHIFT) as u16 | IN_USE | service.id;
        for ((len, bits), policies) in resolve(&own) {
            let first = policies[0];
            let found = if policies.iter().all(|policy| *policy == first) {
                ClassMatch {
                    policy: first,
                    table: 0,
                }
            } else {
                let next = built.tables.len();
                let index = *known.entry(policies).or_insert(next);
                if index == next {
                    built.tables.push(DscpTable(policies));
                }
                let table = bank * MAX_DSCP_TABLES + index as u32;
                ClassMatch {
                    policy: 0,
                    table: u16::try_from(table).unwrap_or(0),
                }
            };
            let client = Address::from(Ipv6Addr::from_bits(bits));
            let key = ClassKey::new(service.classes, client);
            built.prefixes.insert((key, len), found);
        }
    }
    ensure!(
        built.tables.len() <= MAX_DSCP_TABLES as usize,
        "classes need {} DSCP tables, but the maximum is {MAX_DSCP_TABLES}",
        built.tables.len()
    );
    let most = abi::MAX_CLASS_PREFIXES as usize / 2;
    ensure!(
        built.prefixes.len() <= most,
        "classes have {} prefixes, but the maximum is {most}",
        built.prefixes.len()
    );
    for class in classes {
        built.policies.push(limited(&class.policy));
    }
    Ok(built)
}

fn is_of(class: &Class, service: &Service) -> bool {
    let key = abi::ServiceKey {
        class: 0,
        ..class.policy.key
    };
    service.key == key
}

/// Policies by DSCP, for each prefix as length and bits of an IPv6 address.
type Resolved = BTreeMap<(u32, u128), [u16; DSCPS]>;

fn resolve(own: &[(u16, &Class)]) -> Resolved {
    let mut by_prefix: BTreeMap<(u32, u128), Vec<(u16, &Class)>> = BTreeMap::new();
    for (policy, class) in own {
        for prefix in sources(class) {
            by_prefix.entry(prefix).or_default().push((*policy, class));
        }
    }
    // Shorter prefixes come first, so that longer ones inherit from them.
    let mut resolved = Resolved::new();
    for ((len, bits), here) in by_prefix {
        let wider = (0..len).rev().find_map(|len| {
            let known = resolved.get(&(len, cut(bits, len)));
            known.copied()
        });
        let mut policies = wider.unwrap_or([0; DSCPS]);
        let (all, some): (Vec<_>, Vec<_>) = here.iter().partition(|(_, c)| c.dscp.is_empty());
        for (policy, _) in all {
            policies = [policy; DSCPS];
        }
        for (policy, class) in some {
            for dscp in &class.dscp {
                if let Some(place) = policies.get_mut(usize::from(*dscp)) {
                    *place = policy;
                }
            }
        }
        resolved.insert((len, bits), policies);
    }
    resolved
}

/// Returns the prefixes of a class as length and bits of IPv6 addresses.
fn sources(class: &Class) -> Vec<(u32, u128)> {
    let is_v4 = class.policy.key.family == Family::V4 as u8;
    let all = if is_v4 {
        prefix::bits((IpAddr::V4([0; 4].into()), 0))
    } else {
        (0, 0)
    };
    if class.sources.is_empty() {
        return vec![all];
    }
    class.sources.iter().copied().map(prefix::bits).collect()
}

fn cut(bits: u128, len: u32) -> u128 {
    let rest = u128::BITS - len;
    bits.checked_shr(rest)
        .and_then(|bits| bits.checked_shl(rest))
        .unwrap_or(0)
}

/// Checks that classes and limits fit into the maps.
///
/// # Errors
///
/// Returns an error if there are too many, or a class belongs to no service.
pub fn check_classes(
    services: &[Service],
    classes: &[Class],
    limits: &[SourceLimit],
) -> Result<()> {
    let mut services = services.to_vec();
    build(0, &mut services, classes, limits).map(drop)?;
    let orphan = classes
        .iter()
        .find(|class| !services.iter().any(|service| is_of(class, service)));
    if let Some(class) = orphan {
        bail!("class {} belongs to no service", class.policy.id);
    }
    Ok(())
}

/// Looks a client up in the trie by scanning all prefixes; for the host's tables.
pub(super) fn search(
    prefixes: &HashMap<(ClassKey, u32), ClassMatch>,
    key: &ClassKey,
) -> Option<ClassMatch> {
    let bits = key.client().to_ipv6().to_bits();
    (0..=u128::BITS).rev().find_map(|len| {
        let client = Address::from(Ipv6Addr::from_bits(cut(bits, len)));
        let key = ClassKey::new(key.scope(), client);
        prefixes.get(&(key, len)).copied()
    })
}
