//! What memory accesses would cost: 32-byte sectors of global memory, wavefronts of shared memory.
//!
//! The hardware serves the lanes of a warp together. The emulator runs them one after the other, so
//! between two stops of a warp the n-th access of each lane at a place in the source counts as one request.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::panic::Location;

use crate::launch::Grid;
use crate::simt::emulator::violation::{Access, Site, View};

const SECTOR_BYTES: u64 = 32;
const N_BANKS: u64 = 32;
const BANK_BYTES: u64 = 4;

/// What a launch asked of memory.
#[derive(Clone, Debug)]
pub struct LaunchReport {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// The blocks.
    pub grid: Grid,
    /// One entry for each place in the source, view and kind of access.
    pub sites: Vec<SiteReport>,
}

/// What one place in the source asked of memory, over all blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteReport {
    /// The place.
    pub site: Site,
    /// What it accesses.
    pub view: View,
    /// How.
    pub access: Access,
    /// Where that lies.
    pub space: Space,
    /// Times that a warp came here.
    pub requests: u64,
    /// Global memory: 32-byte sectors touched. Shared memory: wavefronts, that is passes over the 32 banks.
    pub transactions: u64,
    /// The same if the lanes of each request had touched as many different bytes side by side.
    pub ideal_transactions: u64,
}

/// The kinds of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Global memory, moved in sectors of 32 bytes.
    Global,
    /// Shared memory, 32 banks of 4 bytes.
    Shared,
}

impl LaunchReport {
    /// The entries of a view.
    pub fn of(&self, view: View) -> impl Iterator<Item = &SiteReport> {
        self.sites.iter().filter(move |site| site.view == view)
    }

    /// Wavefronts of shared memory beyond the least possible: those that bank conflicts cost.
    pub fn bank_conflicts(&self) -> u64 {
        self.excess(Space::Shared)
    }

    /// Sectors of global memory beyond the least possible: those that uncoalesced accesses cost.
    pub fn excess_sectors(&self) -> u64 {
        self.excess(Space::Global)
    }

    fn excess(&self, space: Space) -> u64 {
        let sites = self.sites.iter().filter(|site| site.space == space);
        sites.map(|site| site.transactions - site.ideal_transactions).sum()
    }
}

/// Counts the accesses of the blocks that one worker runs.
#[derive(Default)]
pub struct Counter {
    enabled: Cell<bool>,
    /// Accesses of the running warp since its last stop.
    accesses: RefCell<Vec<LaneAccess>>,
    totals: RefCell<Totals>,
}

#[derive(Default)]
struct Totals {
    numbers: HashMap<(Site, View, u8), usize>,
    sites: Vec<SiteReport>,
}

#[derive(Clone, Copy)]
struct LaneAccess {
    /// Index into `Totals::sites`.
    site: usize,
    lane: u32,
    address: u64,
    bytes: u64,
    /// How many accesses of this lane at this site came before.
    turn: u32,
}

impl Counter {
    /// Starts a launch.
    pub fn start(&self, enabled: bool) {
        self.enabled.set(enabled);
        self.accesses.borrow_mut().clear();
        *self.totals.borrow_mut() = Totals::default();
    }

    /// A lane of the running warp accesses memory.
    #[inline(always)]
    pub fn count(
        &self,
        space: Space,
        view: impl Fn() -> View,
        access: Access,
        (address, bytes, lane): (usize, usize, u32),
        location: &'static Location<'static>,
    ) {
        if self.enabled.get() {
            let site = self.totals.borrow_mut().number(space, view(), access, location.into());
            let (address, bytes) = (address as u64, bytes as u64);
            self.accesses.borrow_mut().push(LaneAccess { site, lane, address, bytes, turn: 0 });
        }
    }

    /// The running warp stops: its accesses are put together to requests.
    pub fn warp_stops(&self) {
        let mut accesses = self.accesses.borrow_mut();
        if accesses.is_empty() {
            return;
        }
        let mut turns = HashMap::new();
        for access in accesses.iter_mut() {
            let turn = turns.entry((access.site, access.lane)).or_insert(0);
            access.turn = *turn;
            *turn += 1;
        }
        accesses.sort_by_key(|access| (access.site, access.turn, access.lane));
        let totals = &mut *self.totals.borrow_mut();
        for request in accesses.chunk_by(|a, b| (a.site, a.turn) == (b.site, b.turn)) {
            let site = &mut totals.sites[request[0].site];
            let (transactions, ideal) = match site.space {
                Space::Global => sectors(request),
                Space::Shared => wavefronts(request),
            };
            site.requests += 1;
            site.transactions += transactions;
            site.ideal_transactions += ideal;
        }
        accesses.clear();
    }

    /// Adds what has been counted to a report.
    pub fn add_to(&self, report: &mut LaunchReport) {
        for site in &self.totals.borrow().sites {
            let same = |other: &&mut SiteReport| {
                (other.site, other.view, other.access) == (site.site, site.view, site.access)
            };
            match report.sites.iter_mut().find(same) {
                Some(total) => {
                    total.requests += site.requests;
                    total.transactions += site.transactions;
                    total.ideal_transactions += site.ideal_transactions;
                }
                None => report.sites.push(*site),
            }
        }
        report.sites.sort_by_key(|site| (site.site, site.view));
    }
}

impl Totals {
    fn number(&mut self, space: Space, view: View, access: Access, site: Site) -> usize {
        *self.numbers.entry((site, view, access as u8)).or_insert_with(|| {
            self.sites.push(SiteReport {
                site,
                view,
                access,
                space,
                requests: 0,
                transactions: 0,
                ideal_transactions: 0,
            });
            self.sites.len() - 1
        })
    }
}

/// Sectors that a request touches, and the least that hold as many different bytes.
fn sectors(request: &[LaneAccess]) -> (u64, u64) {
    let unit_bytes = request[0].bytes;
    let mut units: Vec<u64> = request.iter().map(|access| access.address / unit_bytes).collect();
    units.sort_unstable();
    units.dedup();
    let ideal = (units.len() as u64 * unit_bytes).div_ceil(SECTOR_BYTES);
    // An access is aligned to its size of at most 16 bytes, so it lies in one sector.
    units.iter_mut().for_each(|unit| *unit = *unit * unit_bytes / SECTOR_BYTES);
    units.dedup();
    (units.len() as u64, ideal)
}

/// Wavefronts that a request takes, and the least for as many different words. Lanes are served in groups
/// that can fill the banks: 32 lanes of up to 4 bytes, 16 of 8, 8 of 16.
fn wavefronts(request: &[LaneAccess]) -> (u64, u64) {
    let words_per_lane = request[0].bytes.div_ceil(BANK_BYTES);
    let group_lanes = (N_BANKS / words_per_lane) as u32;
    let groups = request.chunk_by(|a, b| a.lane / group_lanes == b.lane / group_lanes);
    groups.fold((0, 0), |(wavefronts, ideal), group| {
        let mut words_of_bank: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for access in group {
            let first = access.address / BANK_BYTES;
            for word in first..first + words_per_lane {
                let words = words_of_bank.entry(word % N_BANKS).or_default();
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        let deepest = words_of_bank.values().map(Vec::len).max().unwrap_or(0) as u64;
        let n_words = words_of_bank.values().map(Vec::len).sum::<usize>() as u64;
        (wavefronts + deepest, ideal + n_words.div_ceil(N_BANKS))
    })
}
