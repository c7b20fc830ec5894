//! Where threads meet: words that they say together, barriers, and waits that cannot end.

use std::panic::Location;

use super::block::{BlockState, GROUP, LANES, Stop, Thread, WordCall};
use super::check::Clock;
use super::collective::Registers;
use super::run::Launched;
use super::violation::{Fault, Violation};

/// Opens the numbered barriers that all their threads have come to; whether there are any.
pub fn open_named_barriers(
    threads: &[Thread],
    launched: &Launched<'_>,
    block: &BlockState,
) -> Result<bool, Violation> {
    let mut opened = false;
    for thread in threads {
        let Stop::Named { id, n_threads: expected, location } = thread.stop() else { continue };
        let at_same = |other: &&Thread| matches!(other.stop(), Stop::Named { id: i, .. } if i == id);
        let as_many =
            |other: &Thread| matches!(other.stop(), Stop::Named { n_threads: n, .. } if n == expected);
        let waiting = threads.iter().filter(at_same).count() as u32;
        if waiting > expected || !threads.iter().filter(at_same).all(as_many) {
            let fault = Fault::NamedBarrier { id, waiting, expected };
            return Err(thread.violation(fault, location.into()));
        }
        if waiting == expected {
            if launched.checked {
                let warps = threads.iter().step_by(LANES).filter(at_same).map(Thread::warp);
                block.clock.meet(warps);
            }
            threads.iter().filter(at_same).for_each(Thread::give_turn);
            opened = true;
        }
    }
    Ok(opened)
}

/// When no thread can go on: a thread that waits for what no other can bring.
pub fn find_stuck(threads: &[Thread], block: &BlockState) -> Result<(), Violation> {
    for thread in threads {
        match thread.stop() {
            Stop::Phase(wait) => return Err(thread.violation(block.phases.stuck(wait), wait.location.into())),
            Stop::GroupWord(call) => {
                let group = &threads[thread.index as usize / GROUP * GROUP..][..GROUP];
                let elsewhere = group.iter().find(|other| !matches!(other.stop(), Stop::GroupWord(_)));
                let other = elsewhere.expect("a whole group would have said its word");
                let fault =
                    Fault::DivergentWarp { word: call.word, other: other.index, state: other.state() };
                return Err(thread.violation(fault, call.location.into()));
            }
            Stop::Named { id, n_threads: expected, location } => {
                let at_same = |other: &&Thread| matches!(other.stop(), Stop::Named { id: i, .. } if i == id);
                let waiting = threads.iter().filter(at_same).count() as u32;
                return Err(thread.violation(Fault::NamedBarrier { id, waiting, expected }, location.into()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The word at which all these lanes wait, if they wait at one, and their registers; gives each its turn.
pub fn gather<const N: usize>(
    threads: &[Thread],
) -> Result<Option<(WordCall, [Registers<'_>; N])>, Violation> {
    let first = threads.iter().find_map(|thread| match thread.stop() {
        Stop::Word(call) | Stop::GroupWord(call) => Some((thread, call)),
        _ => None,
    });
    let Some((first, call)) = first else { return Ok(None) };
    // A lane that waits for a barrier in shared memory may still come.
    if threads.iter().any(|thread| matches!(thread.stop(), Stop::Phase(_))) {
        return Ok(None);
    }
    let mut lanes: [Registers<'_>; N] = [&[]; N];
    for (thread, registers) in threads.iter().zip(&mut lanes) {
        match thread.stop() {
            Stop::Word(other) | Stop::GroupWord(other)
                if other.word == call.word && same(other.location, call.location) =>
            {
                // SAFETY: on the stack of a coroutine that does not run before the word has been carried out.
                *registers = unsafe { &*other.registers };
            }
            _ => {
                let fault =
                    Fault::DivergentWarp { word: call.word, other: thread.index, state: thread.state() };
                return Err(first.violation(fault, call.location.into()));
            }
        }
    }
    threads.iter().for_each(|thread| thread.give_turn());
    Ok(Some((call, lanes)))
}

/// Opens the barrier at which all threads of a block wait; whether there is one.
pub fn open_barrier(threads: &[Thread]) -> bool {
    let Stop::Barrier(location) = threads[0].stop() else { return false };
    let opens =
        threads.iter().all(|thread| matches!(thread.stop(), Stop::Barrier(other) if same(other, location)));
    if opens {
        threads.iter().for_each(Thread::give_turn);
    }
    opens
}

/// Opens the barrier of the cluster if all its threads wait there that have not returned; whether there are any.
pub fn open_cluster_barrier(threads: &[Thread], launched: &Launched<'_>, clock: &Clock) -> bool {
    let waits = |thread: &&Thread| matches!(thread.stop(), Stop::Cluster { .. });
    let opens = threads.iter().any(|thread| waits(&thread))
        && threads.iter().all(|thread| matches!(thread.stop(), Stop::Cluster { .. } | Stop::Exit));
    if opens {
        if launched.checked {
            let comes = |warp: &[Thread]| {
                warp.iter().find_map(|thread| match thread.stop() {
                    Stop::Cluster { releases, .. } => Some((thread.warp(), releases)),
                    _ => None,
                })
            };
            clock.cluster_barrier(threads.chunks_exact(LANES).filter_map(comes));
        }
        threads.iter().filter(waits).for_each(Thread::give_turn);
    }
    opens
}

/// When no thread can go on: one that waits at a barrier of its block to which another does not come.
pub fn find_divergent(threads: &[Thread]) -> Result<(), Violation> {
    let first = threads.iter().find_map(|thread| match thread.stop() {
        Stop::Barrier(location) => Some((thread, location)),
        _ => None,
    });
    let Some((first, location)) = first else { return Ok(()) };
    let elsewhere =
        threads.iter().find(|thread| !matches!(thread.stop(), Stop::Barrier(other) if same(other, location)));
    let other = elsewhere.expect("a barrier to which all threads come opens");
    let fault = Fault::DivergentBarrier { other: other.index, state: other.state() };
    Err(first.violation(fault, location.into()))
}

/// The compiler may keep several copies of one location.
fn same(a: &'static Location<'static>, b: &'static Location<'static>) -> bool {
    std::ptr::eq(a, b) || a == b
}
