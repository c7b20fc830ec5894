//! Choosing the next token by a sampler's stages, on the device.

use kernels_gpu::launch::{DeviceBuffer, Grid, Purpose};
use kernels_gpu::sample::{
    CHAIN_WORDS, Chain, MAX_VOCAB, argmax_blocks, argmax_f32, argmax_slices_f32, sample_draw_f32,
    sample_slices_f32, slices_blocks, slices_words,
};

use super::Gpu;
use super::accelerator::{Accelerator, device_error};
use super::format::u32_of;
use crate::backend::Error;

/// What the stages work with, of one sequence.
pub(super) struct Choosing {
    chain: DeviceBuffer<u32>, // [CHAIN_WORDS]
    /// The tokens by position.
    history: DeviceBuffer<u32>, // [n_ctx]
    /// Between the two launches.
    slices: DeviceBuffer<u32>, // [slices_words(n_vocab, 1)]
}

/// Whether the kernels can choose from so many logits.
pub(super) fn can_choose(n_vocab: usize) -> bool {
    n_vocab <= MAX_VOCAB
}

impl<D: Accelerator> Gpu<D> {
    /// Brings the stages' options and the tokens so far to the device. The buffers stay where they are from one request
    /// to the next, and so do the recorded launches.
    pub(super) fn prepare_choosing(
        &mut self,
        chain: Chain,
        tokens: &[u32],
        n_ctx: usize,
        n_vocab: usize,
    ) -> Result<(), Error> {
        let n_words = slices_words(n_vocab, 1);
        let device = &self.device;
        let fits = |choosing: &Choosing| (choosing.history.len(), choosing.slices.len()) == (n_ctx, n_words);
        if !self.choosing.as_ref().is_some_and(fits) {
            let zeros = |n: usize| device.zeros(n, Purpose::Other).map_err(device_error);
            let (chain, history, slices) = (zeros(CHAIN_WORDS)?, zeros(n_ctx)?, zeros(n_words)?);
            self.choosing = Some(Choosing { chain, history, slices });
        }
        let choosing = self.choosing.as_mut().expect("made above");
        device.copy_in(&mut choosing.chain, &chain.words()).map_err(device_error)?;
        device.copy_in(choosing.history.slice_mut(0..tokens.len()), tokens).map_err(device_error)
    }

    /// Chooses the largest of the logits and makes its token the next step's.
    pub(super) fn launch_greedy(&mut self, logits: &DeviceBuffer<f32>, n_vocab: usize) -> Result<(), Error> {
        let n_blocks = argmax_blocks(n_vocab);
        let Gpu { device, inputs, bests, .. } = self;
        assert!(inputs.n_tokens == 1, "a choice after {} tokens", inputs.n_tokens);
        let bests = match bests {
            Some(bests) if bests.len() == 2 * n_blocks => bests,
            // Not filled, which has no place among recorded launches: each block writes its own.
            none => none.insert(device.alloc(2 * n_blocks, Purpose::Other).map_err(device_error)?),
        };
        inputs.chooses = true;
        let slices = argmax_slices_f32 { bests, logits: logits.slice(0..n_vocab), n_vocab: u32_of(n_vocab) };
        device.launch(slices, Grid::x(u32_of(n_blocks))).map_err(device_error)?;
        let (tokens, positions) = inputs.words.slice_mut(0..2).split_at_mut(1);
        let (chosen, n_blocks) = (&mut *inputs.chosen, u32_of(n_blocks));
        let choose = argmax_f32 { chosen, tokens, positions, bests, n_blocks };
        device.launch(choose, Grid::x(1)).map_err(device_error)
    }

    /// Draws from the logits and makes the token the next step's.
    pub(super) fn launch_choice(&mut self, logits: &DeviceBuffer<f32>, n_vocab: usize) -> Result<(), Error> {
        let Gpu { device, inputs, choosing, .. } = self;
        let Choosing { chain, history, slices } = choosing.as_mut().expect("`begin_choosing` comes first");
        assert!(inputs.n_tokens == 1, "a choice after {} tokens", inputs.n_tokens);
        inputs.chooses = true;
        let (tokens, positions) = inputs.words.slice_mut(0..2).split_at_mut(1);
        let (n_slices, n_ctx) = (u32_of(slices_blocks(n_vocab)), u32_of(history.len()));
        let sort = sample_slices_f32 {
            slices,
            logits: logits.slice(0..n_vocab),
            chains: chain,
            history,
            positions,
            n_vocab: u32_of(n_vocab),
            n_ctx,
        };
        device.launch(sort, Grid::x(n_slices)).map_err(device_error)?;
        let chosen = &mut inputs.chosen;
        let draw =
            sample_draw_f32 { chosen, tokens, positions, history, slices, chains: chain, n_slices, n_ctx };
        device.launch(draw, Grid::x(1)).map_err(device_error)
    }
}
