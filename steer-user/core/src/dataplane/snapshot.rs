//! Copies of the tables at one time.

use std::collections::{BTreeMap, HashMap};

use steer_common::abi::{
    Address, Admission, CidCipher, CidKey, ClassKey, ClassMatch, ClientNextHop, Config, DscpTable,
    IcmpSource, Interface, LinkKey, MAX_CID_CIPHERS, Member, RouterKey, Service, Slot, SourceLimit,
};

/// Snapshot of everything that decisions depend on, taken at one time; used by `steer explain`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Settings with both banks.
    pub config: Config,
    /// Displacements of the active bank.
    pub displacements: Vec<u32>,
    /// Services of the active bank, by index.
    pub services: Vec<Service>,
    /// Class policies of both banks.
    pub policies: Vec<Service>,
    /// Class prefixes, with the number of significant address bits.
    pub classes: HashMap<(ClassKey, u32), ClassMatch>,
    /// DSCP tables of both banks.
    pub dscp_tables: Vec<DscpTable>,
    /// Source limits of both banks.
    pub limits: Vec<SourceLimit>,
    /// Mutable state of admission, by the numbers of services and classes.
    pub admission: Vec<Admission>,
    /// Members by number.
    pub members: Vec<Member>,
    /// Slots by index.
    pub slots: Vec<Slot>,
    /// Source addresses of `nat`.
    pub nat_sources: Vec<Address>,
    /// Denied prefixes, with lengths in bits of IPv6 addresses.
    pub denied: Vec<(Address, u32)>,
    /// Members of QUIC services by server id.
    pub cids: BTreeMap<CidKey, u16>,
    /// Ciphers of connection ids, indexed by their first three bits.
    pub cid_ciphers: [CidCipher; MAX_CID_CIPHERS as usize],
    /// This node's addresses by link.
    pub icmp_sources: HashMap<LinkKey, IcmpSource>,
    /// The node's MAC addresses, in hash-table order.
    pub node_macs: Vec<u64>,
    /// Properties of interfaces, in table order.
    pub interfaces: Vec<Interface>,
    /// Paths to routers.
    pub routers: BTreeMap<RouterKey, ClientNextHop>,
}
