//! Barriers in shared memory (`mbarrier`): arrivals, bytes and phases.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::Location;

use super::block::{BlockState, Stop, Thread, current};
use super::check::{NO_TIMES, Times, join};
use super::view::{Carver, Local};
use super::violation::{Fault, View, Violation};

/// Barriers in shared memory. The words hold nothing: they stand for the barriers in the checks of shared memory,
/// where an initialisation is a write and all else a read.
#[derive(Clone, Copy)]
pub struct Barriers(Local<u64>);

/// The barriers of the running block, by their first byte in shared memory.
#[derive(Default)]
pub struct Phases(RefCell<BTreeMap<usize, Phase>>);

struct Phase {
    view: View,
    index: usize,
    /// Arrivals of a phase.
    arrivals: u32,
    /// Arrivals that are missing.
    pending: u32,
    /// Bytes that were announced and not copied.
    bytes: i64,
    /// Phases that are complete.
    n_complete: u32,
    /// What those that arrived knew.
    handed_on: Times,
    /// The same when the last phase was complete.
    released: Times,
}

/// What a thread waits for.
#[derive(Clone, Copy)]
pub struct PhaseWait {
    /// First byte of the barrier.
    start: usize,
    parity: u32,
    pub location: &'static Location<'static>,
}

impl Carver {
    #[track_caller]
    pub fn barriers(&mut self, n: usize) -> Barriers {
        Barriers(self.tile(n))
    }
}

impl Barriers {
    #[track_caller]
    pub fn init(self, i: usize, arrivals: u32) {
        self.0.store::<1>(i, [0]);
        let phase = Phase {
            view: self.0.view(),
            index: i,
            arrivals,
            pending: arrivals,
            bytes: 0,
            n_complete: 0,
            handed_on: NO_TIMES,
            released: NO_TIMES,
        };
        current().block().phases.0.borrow_mut().insert(self.0.start(i), phase);
    }

    #[track_caller]
    pub fn arrive(self, i: usize) {
        self.arrive_expect(i, 0);
    }

    #[track_caller]
    pub fn arrive_expect(self, i: usize, bytes: u32) {
        self.arrive_at(current().block(), i, bytes);
    }

    #[track_caller]
    pub fn arrive_remote(self, i: usize, rank: u32) {
        let thread = current();
        let peer = thread.peer(rank, Location::caller());
        if thread.launched().checked {
            peer.cluster.touch(thread.warp(), peer.clock.now(thread.warp()));
        }
        self.arrive_at(peer, i, 0);
    }

    #[track_caller]
    fn arrive_at(self, block: &BlockState, i: usize, bytes: u32) {
        self.0.check_at(block, i);
        let thread = current();
        let handed_on = thread.launched().checked.then(|| block.clock.hand_on(thread.warp()));
        let arrived = self.with(block, i, |phase| phase.arrive(bytes, handed_on));
        if let Err(fault) = arrived {
            thread.violate(fault, Location::caller());
        }
    }

    #[track_caller]
    pub fn wait(self, i: usize, parity: u32) {
        self.0.load::<1>(i);
        let thread = current();
        let block = thread.block();
        let wait = PhaseWait { start: self.0.start(i), parity, location: Location::caller() };
        while !self.with(block, i, |phase| phase.is_past(parity)) {
            thread.await_phase(wait);
        }
        if thread.launched().checked {
            let released = self.with(block, i, |phase| phase.released);
            block.clock.learn(thread.warp(), &released);
        }
    }

    #[track_caller]
    pub fn wait_remote(self, i: usize, parity: u32) {
        self.wait(i, parity);
    }

    /// An agent, known by its place, has copied bytes for barrier `i` of a block, and is done before a time.
    #[track_caller]
    pub fn copied(self, block: &BlockState, i: usize, bytes: u32, (agent, done): (usize, u32)) {
        self.0.check_at(block, i);
        self.with(block, i, |phase| phase.copied(bytes, agent, done));
    }

    #[track_caller]
    fn with<R>(self, block: &BlockState, i: usize, act: impl FnOnce(&mut Phase) -> R) -> R {
        let mut phases = block.phases.0.borrow_mut();
        match phases.get_mut(&self.0.start(i)) {
            Some(phase) => act(phase),
            None => {
                drop(phases);
                current().violate(Fault::Unwritten { view: self.0.view(), index: i }, Location::caller())
            }
        }
    }
}

impl Phase {
    fn arrive(&mut self, bytes: u32, handed_on: Option<Times>) -> Result<(), Fault> {
        if self.pending == 0 {
            return Err(Fault::SurplusArrival { view: self.view, index: self.index });
        }
        self.pending -= 1;
        self.bytes += i64::from(bytes);
        if let Some(times) = handed_on {
            join(&mut self.handed_on, &times);
        }
        self.complete();
        Ok(())
    }

    fn copied(&mut self, bytes: u32, agent: usize, done: u32) {
        self.bytes -= i64::from(bytes);
        self.handed_on[agent] = self.handed_on[agent].max(done);
        self.complete();
    }

    fn complete(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.n_complete += 1;
            self.pending = self.arrivals;
            self.released = self.handed_on;
        }
    }

    fn is_past(&self, parity: u32) -> bool {
        self.n_complete % 2 != parity
    }
}

impl Phases {
    /// Starts a block.
    pub fn reset(&self) {
        self.0.borrow_mut().clear();
    }

    /// Gives their turn to the threads whose phase is complete; whether there are any.
    pub fn wake(&self, threads: &[Thread]) -> bool {
        let phases = self.0.borrow();
        let mut woken = false;
        for thread in threads {
            if let Stop::Phase(wait) = thread.stop()
                && phases[&wait.start].is_past(wait.parity)
            {
                thread.give_turn();
                woken = true;
            }
        }
        woken
    }

    /// Why a wait does not end.
    pub fn stuck(&self, wait: PhaseWait) -> Fault {
        let phases = self.0.borrow();
        let Phase { view, index, n_complete: phase, pending: arrivals, bytes, .. } = phases[&wait.start];
        Fault::Stuck { view, index, phase, arrivals, bytes }
    }

    /// The block has ended: nothing may be on its way.
    pub fn check_end(&self, thread: &Thread) -> Result<(), Violation> {
        match self.0.borrow().values().find(|phase| phase.bytes != 0) {
            Some(&Phase { view, index, bytes, .. }) => {
                Err(thread.at_kernel(Fault::BytesLeft { view, index, bytes }))
            }
            None => Ok(()),
        }
    }
}
