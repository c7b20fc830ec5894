//! How much of a context is taken. The keys and values themselves live with the back end, one cache a layer.

use crate::backend::{self, Backend, KvShape};

/// The cache of all layers, and how far it is filled.
pub struct KvCache<L> {
    layers: Vec<L>,
    n_ctx: usize,
    n_past: usize,
}

impl<L> KvCache<L> {
    /// Allocates `n_layers` caches of equal shape.
    pub fn new<B: Backend<KvLayer = L>>(
        b: &mut B,
        n_layers: usize,
        shape: KvShape,
    ) -> Result<Self, backend::Error> {
        let layers = (0..n_layers).map(|_| b.new_kv_layer(shape)).collect::<Result<Vec<_>, _>>()?;
        Ok(KvCache { layers, n_ctx: shape.n_ctx, n_past: 0 })
    }

    /// One cache a layer. Positions from `n_past` on hold nothing of value.
    pub fn layers_mut(&mut self) -> &mut [L] {
        &mut self.layers
    }

    /// Positions that there are.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Positions taken.
    pub fn n_past(&self) -> usize {
        self.n_past
    }

    /// Takes the next `n_tokens` positions.
    ///
    /// # Panics
    /// When there are fewer: callers refuse such requests before they compute.
    pub fn advance(&mut self, n_tokens: usize) {
        let n_past = self.n_past + n_tokens;
        assert!(n_past <= self.n_ctx, "position {n_past} in a context of {}", self.n_ctx);
        self.n_past = n_past;
    }

    /// Forgets all positions from `n_past` on.
    ///
    /// # Panics
    /// When fewer are taken.
    pub fn truncate(&mut self, n_past: usize) {
        assert!(n_past <= self.n_past, "cannot keep {n_past} positions of {}", self.n_past);
        self.n_past = n_past;
    }
}
