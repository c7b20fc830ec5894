//! What a kernel did wrong, where.

use std::fmt;
use std::panic::Location;

use super::collective::Word;

/// A violation, with the place that committed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}: block {block}, thread {thread}: {fault} ({site})")]
pub struct Violation {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// The block.
    pub block: Block,
    /// Index of the thread in its block.
    pub thread: u32,
    /// What happened.
    pub fault: Fault,
    /// The source line.
    pub site: Site,
}

/// Indices of a block in its grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Along x.
    pub x: u32,
    /// Along y.
    pub y: u32,
    /// Along z.
    pub z: u32,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}, {})", self.x, self.y, self.z)
    }
}

/// A place in the source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The file, as the compiler was given it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl From<&'static Location<'static>> for Site {
    fn from(location: &'static Location<'static>) -> Self {
        Self { file: location.file(), line: location.line(), column: location.column() }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An array that a kernel accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// The kernel's parameter of this name.
    Param(&'static str),
    /// The tile that the thread carved as its n-th from shared memory, from 0.
    Tile(u32),
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            View::Param(name) => write!(f, "`{name}`"),
            View::Tile(number) => write!(f, "tile {number}"),
        }
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Elements beyond the end of a view.
    OutOfBounds {
        /// The view.
        view: View,
        /// First element of the access.
        index: usize,
        /// Elements of the access.
        count: usize,
        /// Elements of the view.
        len: usize,
    },
    /// A vector access whose address is no multiple of its size.
    Misaligned {
        /// The view.
        view: View,
        /// First element of the access.
        index: usize,
        /// Bytes of the access.
        access_bytes: usize,
    },
    /// A read of memory that nothing has written.
    Unwritten {
        /// The view.
        view: View,
        /// The element.
        index: usize,
    },
    /// Two threads touch one element, at least one writes, and no barrier orders them.
    Race {
        /// The view.
        view: View,
        /// The element.
        index: usize,
        /// What the violating thread did.
        access: Access,
        /// What the other one had done.
        other: Access,
        /// Who that was.
        by: Other,
    },
    /// A touch of shared memory into which a copy is in flight.
    CopyInFlight {
        /// The view.
        view: View,
        /// The element.
        index: usize,
        /// What the thread did.
        access: Access,
        /// The thread that has not waited for its copy.
        by: u32,
    },
    /// A thread returned without waiting for its copy.
    CopyNotAwaited {
        /// The view.
        view: View,
        /// First element of the copy.
        index: usize,
    },
    /// A streaming read of a buffer that the same launch may write.
    StreamOfWritten {
        /// The view.
        view: View,
        /// The element.
        index: usize,
    },
    /// A kernel of a dependent launch touches memory of the kernels before it without `pdl::wait`.
    BeforeWait {
        /// The view.
        view: View,
        /// The element.
        index: usize,
        /// What the thread did.
        access: Access,
    },
    /// A kernel marked `pdl` ended without `pdl::wait`, so nothing orders it after the kernels before it.
    NoWait,
    /// Threads of a block wait at a barrier that another one does not come to.
    DivergentBarrier {
        /// The other thread.
        other: u32,
        /// Where that one is.
        state: State,
    },
    /// Lanes of a warp wait in a warp word that another one does not come to.
    DivergentWarp {
        /// The word.
        word: Word,
        /// The other thread.
        other: u32,
        /// Where that one is.
        state: State,
    },
    /// An operand of a warp word names a lane outside 0..32.
    NoSuchLane {
        /// The word.
        word: Word,
        /// The operand.
        operand: u32,
    },
    /// A wait for a barrier in shared memory that will not end: no thread can go on.
    Stuck {
        /// The tile of barriers.
        view: View,
        /// The barrier.
        index: usize,
        /// The phase that it is in, from 0.
        phase: u32,
        /// Arrivals that are missing.
        arrivals: u32,
        /// Bytes that were announced and not copied; below zero, those that were copied and not announced.
        bytes: i64,
    },
    /// One arrival more at a barrier than its phase has.
    SurplusArrival {
        /// The tile of barriers.
        view: View,
        /// The barrier.
        index: usize,
    },
    /// A block ended while a barrier's phase lacked bytes, or had too many.
    BytesLeft {
        /// The tile of barriers.
        view: View,
        /// The barrier.
        index: usize,
        /// As in [`Fault::Stuck`].
        bytes: i64,
    },
    /// The copy engine or the tensor cores read what a thread wrote without `boxes::fence` after it.
    Unfenced {
        /// The view.
        view: View,
        /// The element.
        index: usize,
        /// Who wrote it.
        by: Other,
    },
    /// Results of a product, used before the wait for it.
    InFlight,
    /// Registers of results, used before and now multiplied into without `Accumulators::fence`.
    UnfencedResults,
    /// Lanes of a warpgroup say a product with different operands.
    OperandsDiffer {
        /// A lane that differs from the first.
        other: u32,
    },
    /// A thread returned while stores of the copy engine may still read its shared memory.
    StoresUnread,
    /// A named barrier that threads come to with different numbers of threads, or that no thread can leave.
    NamedBarrier {
        /// Its number.
        id: u32,
        /// Threads that wait there.
        waiting: u32,
        /// Threads that it is for.
        expected: u32,
    },
    /// No block of the cluster has this rank.
    NoSuchBlock {
        /// The rank.
        rank: u32,
        /// Blocks of the cluster.
        n_blocks: u32,
    },
    /// A touch of the shared memory of a block of the cluster that may not have started: nothing orders it after that.
    BlockNotStarted {
        /// The block's rank.
        rank: u32,
    },
    /// A touch of the shared memory of a block of the cluster that has ended.
    BlockExited {
        /// The block's rank.
        rank: u32,
    },
    /// A block of a cluster ended, and nothing orders that after the last touch of its shared memory by another.
    TouchedAtExit {
        /// The other block's rank.
        rank: u32,
    },
    /// Tiles take more shared memory than the kernel's attribute states.
    SharedOverflow {
        /// The tile.
        view: View,
        /// Bytes up to its end.
        end: usize,
        /// Bytes that the attribute states.
        stated: usize,
    },
    /// A thread carves another tile than the threads before it.
    TileMismatch {
        /// The tile.
        view: View,
    },
    /// The kernel panicked or trapped.
    Panic {
        /// The message.
        message: String,
    },
}

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a read.
    Read,
    /// By a write.
    Write,
    /// By an atomic operation.
    Atomic,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic operation",
        })
    }
}

/// The other party of a race, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// A thread of the same block.
    Thread(u32),
    /// A thread of another block of the cluster.
    Peer {
        /// The block's rank.
        rank: u32,
        /// The thread in it.
        thread: u32,
    },
    /// One of several threads of the same block.
    SeveralThreads,
    /// A thread of another block, by linear index.
    Block {
        /// Linear index of the block: x fastest, z slowest.
        block: u64,
        /// The thread in it.
        thread: u32,
    },
    /// One of several blocks.
    SeveralBlocks,
    /// The copy engine.
    CopyEngine,
    /// The tensor cores.
    TensorCores,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Other::Thread(thread) => write!(f, "thread {thread} of the block"),
            Other::Peer { rank, thread } => write!(f, "thread {thread} of block {rank} of the cluster"),
            Other::SeveralThreads => write!(f, "several threads of the block"),
            Other::Block { block, thread } => write!(f, "thread {thread} of block number {block}"),
            Other::SeveralBlocks => write!(f, "several blocks"),
            Other::CopyEngine => write!(f, "the copy engine"),
            Other::TensorCores => write!(f, "the tensor cores"),
        }
    }
}

/// Where a thread is that did not come along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has returned.
    Exited,
    /// It waits at a barrier.
    AtBarrier(Site),
    /// It waits in a word of its warp or warpgroup.
    InWarpWord(Word, Site),
    /// It waits for a barrier in shared memory.
    AtPhase(Site),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Exited => write!(f, "has returned"),
            State::AtBarrier(site) => write!(f, "waits at the barrier of {site}"),
            State::AtPhase(site) => write!(f, "waits for the mbarrier of {site}"),
            State::InWarpWord(word, site) => write!(f, "waits in {word} of {site}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::OutOfBounds { view, index, count, len } => {
                let last = index.saturating_add(count - 1);
                write!(f, "elements {index} to {last} of {view}, which has {len}")
            }
            Fault::Misaligned { view, index, access_bytes } => {
                write!(f, "{access_bytes}-byte access at element {index} of {view} is not aligned")
            }
            Fault::Unwritten { view, index } => {
                write!(f, "read of element {index} of {view}, which nothing has written")
            }
            Fault::Race { view, index, access, other, by } => {
                write!(f, "{access} of element {index} of {view} races with a {other} by {by}")
            }
            Fault::CopyInFlight { view, index, access, by } => {
                write!(
                    f,
                    "{access} of element {index} of {view} before thread {by} has waited for its copy there"
                )
            }
            Fault::CopyNotAwaited { view, index } => {
                write!(f, "returned without waiting for this copy to element {index} of {view}")
            }
            Fault::StreamOfWritten { view, index } => {
                write!(f, "streaming read of element {index} of {view}, which this launch may write")
            }
            Fault::BeforeWait { view, index, access } => {
                write!(f, "{access} of element {index} of {view} before pdl::wait")
            }
            Fault::NoWait => write!(f, "a kernel marked `pdl` returned without pdl::wait"),
            Fault::DivergentBarrier { other, state } => {
                write!(f, "waits at a barrier, but thread {other} {state}")
            }
            Fault::DivergentWarp { word, other, state } => {
                write!(f, "waits in {word}, but thread {other} {state}")
            }
            Fault::NoSuchLane { word, operand } => write!(f, "{word} with operand {operand}, not in 0..32"),
            Fault::Stuck { view, index, phase, arrivals, bytes } => {
                write!(
                    f,
                    "waits for barrier {index} of {view} for ever: phase {phase} lacks {arrivals} arrivals and {bytes} bytes"
                )
            }
            Fault::SurplusArrival { view, index } => {
                write!(f, "arrival at barrier {index} of {view}, whose phase has all its arrivals")
            }
            Fault::BytesLeft { view, index, bytes } => {
                write!(f, "barrier {index} of {view} lacks {bytes} bytes at the end of the block")
            }
            Fault::Unfenced { view, index, by } => {
                write!(f, "read of element {index} of {view}, written by {by} without boxes::fence")
            }
            Fault::InFlight => write!(f, "results of a product are used before the wait for it"),
            Fault::UnfencedResults => {
                write!(f, "a product into registers that were used, without Accumulators::fence")
            }
            Fault::OperandsDiffer { other } => {
                write!(f, "a product whose operands differ from thread {other}'s")
            }
            Fault::StoresUnread => {
                write!(f, "returned while the copy engine may still read what it is to store")
            }
            Fault::NamedBarrier { id, waiting, expected } => {
                write!(f, "waits at barrier {id} with {waiting} of {expected} threads")
            }
            Fault::NoSuchBlock { rank, n_blocks } => {
                write!(f, "names block {rank} of a cluster of {n_blocks}")
            }
            Fault::BlockNotStarted { rank } => {
                write!(
                    f,
                    "touches the shared memory of block {rank} of the cluster, which may not have started"
                )
            }
            Fault::BlockExited { rank } => {
                write!(f, "touches the shared memory of block {rank} of the cluster, which has ended")
            }
            Fault::TouchedAtExit { rank } => {
                write!(
                    f,
                    "the block ended, but block {rank} of the cluster may still touch its shared memory"
                )
            }
            Fault::SharedOverflow { view, end, stated } => {
                write!(f, "{view} ends at byte {end} of shared memory, of which the kernel states {stated}")
            }
            Fault::TileMismatch { view } => write!(f, "{view} is not the tile that other threads carved"),
            Fault::Panic { message } => write!(f, "panicked: {message}"),
        }
    }
}
