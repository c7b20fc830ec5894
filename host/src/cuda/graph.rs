//! Lists of launches that run as one: CUDA graphs.
//!
//! A decode step is some hundred launches of 3.5 µs each; as a graph it is one. Between [`Cuda::begin_batch`] and
//! [`Cuda::end_batch`] launches are only collected. The first time that a list comes, it is launched one by one; the
//! second time it is captured into a graph; from then on the graph runs. Because the whole list is compared with the
//! recorded one, addresses and scalars included, a replay cannot differ from what was asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use cust::sys::{CUgraph, CUgraphExec};
use kernels_gpu::launch::{Grid, KernelArgs, KernelMeta};

use super::raw;
use super::vram::Vram;
use super::{Cuda, Error};

/// A launch that waits for its turn.
#[derive(Clone, Debug)]
pub(super) struct QueuedLaunch {
    pub meta: &'static KernelMeta,
    pub args: KernelArgs,
    pub grid: Grid,
}

impl PartialEq for QueuedLaunch {
    fn eq(&self, other: &Self) -> bool {
        // A program has one kernel of a name.
        self.meta.name == other.meta.name && self.args == other.args && self.grid == other.grid
    }
}

/// Graphs kept at most: a generation uses one or two, but prompts of many lengths would pile up.
const GRAPHS_MAX: usize = 32;

/// The lists that were launched last, by their callers' keys.
#[derive(Default)]
pub(super) struct Recordings {
    by_key: HashMap<u64, Recording>,
    n_calls: u64,
}

struct Recording {
    launches: Vec<QueuedLaunch>,
    /// Made when the list comes for the second time.
    graph: Option<Graph>,
    last_call: u64,
}

impl Cuda {
    /// From here to [`Cuda::end_batch`], launches are collected instead of run.
    ///
    /// # Panics
    /// If a batch is open. Copies panic while one is: they would overtake the launches.
    pub fn begin_batch(&self) {
        let before = self.queue.replace(Some(Vec::new()));
        assert!(before.is_none(), "a batch within a batch");
    }

    /// Forgets the launches since [`Cuda::begin_batch`].
    pub fn abandon_batch(&self) {
        self.queue.replace(None);
    }

    /// Runs the launches since [`Cuda::begin_batch`]. Lists of equal `key` are expected to be equal, and are replayed
    /// as one graph where they are.
    ///
    /// # Errors
    /// Those of the launches.
    ///
    /// # Panics
    /// If no batch is open.
    pub fn end_batch(&self, key: u64) -> Result<(), Error> {
        let launches = self.queue.replace(None).expect("a batch is open");
        if self.waits_for_each_launch() {
            return self.launch_all(&launches);
        }
        let mut recordings = self.recordings.borrow_mut();
        recordings.n_calls += 1;
        let n_calls = recordings.n_calls;
        recordings.make_room(key);
        match recordings.by_key.entry(key) {
            Entry::Occupied(entry) if entry.get().launches == launches => {
                let recording = entry.into_mut();
                recording.last_call = n_calls;
                if recording.graph.is_none() {
                    recording.graph = Some(self.capture(|| self.launch_all(&launches))?);
                }
                let graph = recording.graph.as_ref().expect("made above");
                // SAFETY: the list of launches of this very call is that of the graph, so every address in it is borrowed by
                // the caller, as for a launch.
                unsafe { self.launch_graph(graph) }
            }
            entry => {
                self.launch_all(&launches)?;
                entry.insert_entry(Recording { launches, graph: None, last_call: n_calls });
                Ok(())
            }
        }
    }

    fn launch_all(&self, launches: &[QueuedLaunch]) -> Result<(), Error> {
        launches.iter().try_for_each(|launch| self.launch_now(launch))
    }

    /// Makes a graph of everything that `queue` queues in this device's stream, none of which runs now.
    ///
    /// # Errors
    /// Those of `queue`, and of the driver when something cannot be part of a graph.
    ///
    /// # Panics
    /// If a batch is open: its launches would be collected there.
    pub fn capture<E: From<Error>>(&self, queue: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        assert!(self.queue.borrow().is_none(), "a capture within a batch");
        let stream = self.raw_stream();
        self.vram().bind().map_err(Error::from)?;
        // SAFETY: a stream of this context, in which this thread alone queues.
        unsafe { raw::cuStreamBeginCapture_v2(stream, raw::CAPTURE_THREAD_LOCAL) }.map_err(Error::from)?;
        let queued = queue();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the stream is capturing; `graph` is a place for a handle.
        let ended = unsafe { raw::cuStreamEndCapture(stream, &mut graph) };
        queued?;
        ended.map_err(Error::from)?;
        Ok(self.instantiate(graph)?)
    }

    /// The executable form of a graph, which takes the graph's place.
    fn instantiate(&self, graph: CUgraph) -> Result<Graph, Error> {
        let stream = self.raw_stream();
        let mut exec = std::ptr::null_mut();
        // SAFETY: a captured graph, a place for a handle.
        let instantiated = unsafe { raw::cuGraphInstantiateWithFlags(&mut exec, graph, 0) };
        // SAFETY: the graph is ours, and its executable form does not need it.
        unsafe { raw::cuGraphDestroy(graph) }?;
        instantiated?;
        let graph = Graph { exec, vram: Arc::clone(self.vram()) };
        // SAFETY: an executable graph and a stream of one context.
        unsafe { raw::cuGraphUpload(graph.exec, stream) }?;
        Ok(graph)
    }

    /// Queues a graph.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Safety
    /// Memory that the graph's launches use is still there, and nothing that is borrowed elsewhere is written to.
    pub unsafe fn launch_graph(&self, graph: &Graph) -> Result<(), Error> {
        self.vram().bind()?;
        // SAFETY: a graph of this context; the rest is the caller's promise.
        let launched = unsafe { raw::cuGraphLaunch(graph.exec, self.raw_stream()) };
        self.vram().check(launched, None)
    }
}

impl Recordings {
    /// Drops the recording that was not used for longest, if `key` would be one too many.
    fn make_room(&mut self, key: u64) {
        if self.by_key.len() < GRAPHS_MAX || self.by_key.contains_key(&key) {
            return;
        }
        let oldest = self.by_key.iter().min_by_key(|(_, recording)| recording.last_call).map(|(&key, _)| key);
        self.by_key.remove(&oldest.expect("there are GRAPHS_MAX"));
    }
}

/// Work that is queued as one: see [`Cuda::capture`].
pub struct Graph {
    exec: CUgraphExec,
    vram: Arc<Vram>,
}

// SAFETY: the handle belongs to a context, which any thread may use that has made it current.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`, ours alone; the driver waits for a run that has not ended.
        self.vram.tear_down(|| unsafe { raw::cuGraphExecDestroy(self.exec) });
    }
}
