//! The block formats that kernels exist for, and the kernels of each.

use kernels_gpu::embedding::*;
use kernels_gpu::gemm::*;
use kernels_gpu::gemm_quant::plan::Plan;
use kernels_gpu::gemm_quant_mma::product::Product;
use kernels_gpu::gemv::{self, *};
use kernels_gpu::launch::{Device, DeviceSlice, Grid};
use kernels_gpu::quant::fragments::TILE_ROWS;
use kernels_gpu::quant::layout::GpuLayout;
use kernels_gpu::quant::{self, QuantBlock};
use kernels_gpu::repack::*;
use kernels_gpu::simt::f16;

use crate::gguf::GgmlType;

/// A format of weights that the GPU computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(GgmlType);

/// Evaluates `$body` with `$block` standing for the format's block type.
macro_rules! with_block {
    ($format:expr, |$block:ident| $body:expr) => {{
        macro_rules! body {
            ($ty:ty) => {{
                type $block = $ty;
                $body
            }};
        }
        match $format.0 {
            GgmlType::F32 => body!(quant::F32),
            GgmlType::F16 => body!(quant::F16),
            GgmlType::BF16 => body!(quant::BF16),
            GgmlType::Q4_0 => body!(quant::Q4_0),
            GgmlType::Q4_1 => body!(quant::Q4_1),
            GgmlType::Q5_0 => body!(quant::Q5_0),
            GgmlType::Q5_1 => body!(quant::Q5_1),
            GgmlType::Q8_0 => body!(quant::Q8_0),
            GgmlType::Q4_K => body!(quant::Q4_K),
            GgmlType::Q5_K => body!(quant::Q5_K),
            GgmlType::Q6_K => body!(quant::Q6_K),
            GgmlType::Q2_K => body!(quant::Q2_K),
            GgmlType::Q3_K => body!(quant::Q3_K),
            GgmlType::IQ4_NL => body!(quant::IQ4_NL),
            GgmlType::IQ4_XS => body!(quant::IQ4_XS),
            GgmlType::MXFP4 => body!(quant::MXFP4),
            other => unreachable!("Format::new admits no {}", other.name()),
        }
    }};
}

/// Launches one of the kernels that take the same arguments.
macro_rules! launch_by_format {
    ($device:expr, $format:expr, $grid:expr,
     [$($name:ident: $ty:ident),*], $arguments:tt) => {
        match $format.0 {
            $(GgmlType::$ty => launch_by_format!(@one $device, $grid, $name, $arguments),)*
            other => unreachable!("no kernel for {}", other.name()),
        }
    };
    (@one $device:expr, $grid:expr, $name:ident, { $($field:ident: $value:expr),* }) => {
        $device.launch($name { $($field: $value),* }, $grid)
    };
}

impl Format {
    const SUPPORTED: [GgmlType; 16] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::IQ4_NL,
        GgmlType::IQ4_XS,
        GgmlType::MXFP4,
    ];

    /// The format of a tensor type, if there are kernels for it.
    pub fn new(ty: GgmlType) -> Option<Self> {
        Self::SUPPORTED.contains(&ty).then_some(Format(ty))
    }

    /// The names of all supported types, for messages.
    pub fn supported() -> String {
        Self::SUPPORTED.map(GgmlType::name).join(", ")
    }

    /// Bytes of a matrix in a file.
    pub fn file_bytes(self, [n_rows, n_cols]: [usize; 2]) -> usize {
        with_block!(self, |Block| n_rows * (n_cols / Block::ELEMENTS) * Block::BYTES)
    }

    /// Bytes of a matrix in the GPU's layout.
    pub fn matrix_bytes(self, [n_rows, n_cols]: [usize; 2]) -> usize {
        with_block!(self, |Block| Block::matrix_bytes(n_rows, n_cols))
    }

    /// Columns of a stretch, the piece of a row that goes to the GPU as a whole.
    pub fn stretch_cols(self) -> usize {
        with_block!(self, |Block| Block::STRETCH_COLS)
    }

    /// Whether the GPU keeps the bytes in the order of the file.
    pub fn is_as_in_file(self) -> bool {
        with_block!(self, |Block| Block::AS_IN_FILE)
    }

    /// Puts stretches of a file into their places of a matrix.
    ///
    /// # Panics
    /// If the format needs no repacking.
    pub fn repack<D: Device>(
        self,
        device: &D,
        dst: &mut DeviceSlice<u8>,
        src: &DeviceSlice<u8>,
        stretches: Stretches,
        [n_rows, n_cols]: [usize; 2],
    ) -> Result<(), D::Error> {
        let Stretches { first, n } = stretches;
        launch_by_format!(device, self, Grid::x(u32_of(repack_blocks(n))),
            [repack_f16: F16, repack_bf16: BF16, repack_q4_0: Q4_0, repack_q4_1: Q4_1, repack_q5_0: Q5_0,
             repack_q5_1: Q5_1, repack_q8_0: Q8_0, repack_q4_k: Q4_K, repack_q5_k: Q5_K, repack_q6_k: Q6_K, repack_q2_k: Q2_K, repack_q3_k: Q3_K, repack_iq4_nl: IQ4_NL, repack_iq4_xs: IQ4_XS, repack_mxfp4: MXFP4],
            { dst: dst, src: src, first: u32_of(first), n: u32_of(n), n_rows: u32_of(n_rows), n_cols: u32_of(n_cols) })
    }

    /// y[t] = row tokens[t] of `w`.
    pub fn embedding<D: Device>(
        self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        tokens: &DeviceSlice<u32>,
        [n_vocab, dim]: [usize; 2],
    ) -> Result<(), D::Error> {
        let n_tokens = tokens.len();
        let blocks = with_block!(self, |Block| embedding_blocks::<Block>(n_tokens, dim));
        let grid = Grid::x(u32_of(blocks));
        launch_by_format!(device, self, grid,
            [embedding_f32: F32, embedding_f16: F16, embedding_bf16: BF16, embedding_q4_0: Q4_0,
             embedding_q4_1: Q4_1, embedding_q5_0: Q5_0, embedding_q5_1: Q5_1, embedding_q8_0: Q8_0,
             embedding_q4_k: Q4_K, embedding_q5_k: Q5_K, embedding_q6_k: Q6_K, embedding_q2_k: Q2_K, embedding_q3_k: Q3_K, embedding_iq4_nl: IQ4_NL, embedding_iq4_xs: IQ4_XS, embedding_mxfp4: MXFP4],
            { y: y, w: w, tokens: tokens, n_tokens: u32_of(n_tokens), dim: u32_of(dim), n_vocab: u32_of(n_vocab) })
    }

    /// Most vectors that [`Self::gemv`] reads the matrix once for.
    pub fn gemv_vectors(self) -> usize {
        if self.0 == GgmlType::F32 { 1 } else { gemv::MAX_VECTORS }
    }

    /// The form in which [`Self::gemv`] takes so many vectors; none if as they are.
    pub fn x_order(self, n_vectors: usize) -> Option<XOrder> {
        let max_vectors = gemv_max_vectors(n_vectors);
        macro_rules! order {
            ($($ty:ident),+) => {
                match self.0 {
                    GgmlType::F32 => None,
                    $(GgmlType::$ty => Some(gemv_x_order::<quant::$ty>(max_vectors)),)+
                    other => unreachable!("Format::new admits no {}", other.name()),
                }
            };
        }
        order!(F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4)
    }

    /// Blocks of the kernel for so many vectors that a multiprocessor runs at once. While one waits for x or for its warps, the
    /// other works, and twice as much of the weights is on its way before x is there.
    ///
    /// # Panics
    /// For f32.
    pub fn gemv_blocks_at_once(self, n_vectors: usize) -> usize {
        let max_vectors = gemv_max_vectors(n_vectors);
        macro_rules! blocks {
            ($($ty:ident),+) => {
                match self.0 {
                    $(GgmlType::$ty => gemv_blocks_at_once::<quant::$ty>(max_vectors),)+
                    other => unreachable!("no such kernel for {}", other.name()),
                }
            };
        }
        blocks!(F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4)
    }

    /// y[o] = Σ w[o, k] · x[k] with weights in f32, with at most `max_blocks` blocks.
    pub fn gemv_f32<D: Device>(
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: &DeviceSlice<f32>,
        [n_rows, n_cols]: [usize; 2],
        max_blocks: usize,
    ) -> Result<(), D::Error> {
        let grid = Grid::x(u32_of(gemv_blocks(n_rows, max_blocks)));
        device.launch(gemv_f32 { y, w, x, n_rows: u32_of(n_rows), n_cols: u32_of(n_cols) }, grid)
    }

    /// y[o] = Σ w[o, k] · x[k] for one vector and each (y, w, number of rows), in one launch with at most `max_blocks` blocks.
    ///
    /// # Panics
    /// If there is no product or there are more than [`gemv::MATRICES`], or the vector is not in the format's form.
    pub fn gemv_one<'a, D: Device>(
        self,
        device: &D,
        products: impl IntoIterator<Item = (&'a mut DeviceSlice<f32>, &'a DeviceSlice<u8>, usize)>,
        x: ConvertedX<'_>,
        n_cols: usize,
        max_blocks: usize,
    ) -> Result<(), D::Error> {
        let ConvertedX { order, words: x, numbers: x_numbers, n_vectors } = x;
        self.check_x(order, n_vectors);
        let mut products = products.into_iter();
        let (y, w, n_rows) = products.next().expect("a product");
        let (y, none) = y.split_at_mut(n_rows);
        let (none_b, none_c) = none.split_at_mut(0);
        let (y_b, w_b, n_rows_b) = products.next().unwrap_or((none_b, w, 0));
        let (y_c, w_c, n_rows_c) = products.next().unwrap_or((none_c, w, 0));
        assert!(n_vectors == 1 && products.next().is_none(), "{n_vectors} vectors, or too many matrices");
        let all_rows: usize =
            [n_rows, n_rows_b, n_rows_c].map(|n| n.next_multiple_of(TILE_ROWS)).iter().sum();
        let grid = Grid::x(u32_of(gemv_blocks(all_rows, max_blocks)));
        let [n_rows, n_rows_b, n_rows_c, n_cols] = [n_rows, n_rows_b, n_rows_c, n_cols].map(u32_of);
        launch_by_format!(device, self, grid,
            [gemv_f16: F16, gemv_bf16: BF16, gemv_q4_0: Q4_0, gemv_q4_1: Q4_1, gemv_q5_0: Q5_0,
             gemv_q5_1: Q5_1, gemv_q8_0: Q8_0, gemv_q4_k: Q4_K, gemv_q5_k: Q5_K, gemv_q6_k: Q6_K,
             gemv_q2_k: Q2_K, gemv_q3_k: Q3_K, gemv_iq4_nl: IQ4_NL, gemv_iq4_xs: IQ4_XS, gemv_mxfp4: MXFP4],
            { y: y, y_b: y_b, y_c: y_c, w: w, w_b: w_b, w_c: w_c, x: x, x_numbers: x_numbers,
              n_rows: n_rows, n_rows_b: n_rows_b, n_rows_c: n_rows_c, n_cols: n_cols })
    }

    /// # Panics
    /// If the form is not that of the format.
    fn check_x(self, order: XOrder, n_vectors: usize) {
        let needed = self.x_order(n_vectors);
        assert!(needed == Some(order), "vectors in {order:?}, needed: {needed:?}");
    }

    /// y[t, o] = Σ w[o, k] · x[t, k] for a few vectors, with at most `max_blocks` blocks.
    ///
    /// # Panics
    /// If there are more vectors than [`Self::gemv_vectors`], or the vectors are not in the format's form.
    pub fn gemv<D: Device>(
        self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: ConvertedX<'_>,
        [n_rows, n_cols]: [usize; 2],
        max_blocks: usize,
    ) -> Result<(), D::Error> {
        if x.n_vectors == 1 {
            return self.gemv_one(device, [(y, w, n_rows)], x, n_cols, max_blocks);
        }
        let ConvertedX { order, words: x, numbers: x_numbers, n_vectors } = x;
        self.check_x(order, n_vectors);
        let grid = Grid::x(u32_of(gemv_blocks(n_rows, max_blocks)));
        let max_vectors = gemv_max_vectors(n_vectors);
        let [n_rows, n_cols, n_vectors] = [n_rows, n_cols, n_vectors].map(u32_of);
        match max_vectors {
            4 => launch_by_format!(device, self, grid,
                [gemv_f16_n4: F16, gemv_bf16_n4: BF16, gemv_q4_0_n4: Q4_0, gemv_q4_1_n4: Q4_1, gemv_q5_0_n4: Q5_0,
                 gemv_q5_1_n4: Q5_1, gemv_q8_0_n4: Q8_0, gemv_q4_k_n4: Q4_K, gemv_q5_k_n4: Q5_K, gemv_q6_k_n4: Q6_K,
                 gemv_q2_k_n4: Q2_K, gemv_q3_k_n4: Q3_K, gemv_iq4_nl_n4: IQ4_NL, gemv_iq4_xs_n4: IQ4_XS, gemv_mxfp4_n4: MXFP4],
                { y: y, w: w, x: x, x_numbers: x_numbers, n_vectors: n_vectors, n_rows: n_rows, n_cols: n_cols }),
            8 => launch_by_format!(device, self, grid,
                [gemv_f16_n8: F16, gemv_bf16_n8: BF16, gemv_q4_0_n8: Q4_0, gemv_q4_1_n8: Q4_1, gemv_q5_0_n8: Q5_0,
                 gemv_q5_1_n8: Q5_1, gemv_q8_0_n8: Q8_0, gemv_q4_k_n8: Q4_K, gemv_q5_k_n8: Q5_K, gemv_q6_k_n8: Q6_K,
                 gemv_q2_k_n8: Q2_K, gemv_q3_k_n8: Q3_K, gemv_iq4_nl_n8: IQ4_NL, gemv_iq4_xs_n8: IQ4_XS, gemv_mxfp4_n8: MXFP4],
                { y: y, w: w, x: x, x_numbers: x_numbers, n_vectors: n_vectors, n_rows: n_rows, n_cols: n_cols }),
            _ => launch_by_format!(device, self, grid,
                [gemv_f16_n16: F16, gemv_bf16_n16: BF16, gemv_q4_0_n16: Q4_0, gemv_q4_1_n16: Q4_1, gemv_q5_0_n16: Q5_0,
                 gemv_q5_1_n16: Q5_1, gemv_q8_0_n16: Q8_0, gemv_q4_k_n16: Q4_K, gemv_q5_k_n16: Q5_K, gemv_q6_k_n16: Q6_K,
                 gemv_q2_k_n16: Q2_K, gemv_q3_k_n16: Q3_K, gemv_iq4_nl_n16: IQ4_NL, gemv_iq4_xs_n16: IQ4_XS, gemv_mxfp4_n16: MXFP4],
                { y: y, w: w, x: x, x_numbers: x_numbers, n_vectors: n_vectors, n_rows: n_rows, n_cols: n_cols }),
        }
    }

    /// y[t, o] = Σ w[o, k] · x[t, k].
    pub fn gemm<D: Device>(
        self,
        device: &D,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: &DeviceSlice<f32>,
        [n_rows, n_cols]: [usize; 2],
        n_tokens: usize,
    ) -> Result<(), D::Error> {
        let (blocks_x, blocks_y) = gemm_grid(n_tokens, n_rows);
        launch_by_format!(device, self, Grid::xy(u32_of(blocks_x), u32_of(blocks_y)),
            [gemm_f32: F32, gemm_f16: F16, gemm_bf16: BF16, gemm_q4_0: Q4_0, gemm_q4_1: Q4_1, gemm_q5_0: Q5_0,
             gemm_q5_1: Q5_1, gemm_q8_0: Q8_0, gemm_q4_k: Q4_K, gemm_q5_k: Q5_K, gemm_q6_k: Q6_K, gemm_q2_k: Q2_K, gemm_q3_k: Q3_K, gemm_iq4_nl: IQ4_NL, gemm_iq4_xs: IQ4_XS, gemm_mxfp4: MXFP4],
            { y: y, w: w, x: x, n_tokens: u32_of(n_tokens), n_rows: u32_of(n_rows), n_cols: u32_of(n_cols) })
    }

    /// Whether [`Self::gemm_quant`] works.
    pub fn has_gemm_quant(self) -> bool {
        use GgmlType::*;
        !matches!(self.0, F32 | F16 | BF16 | Q2_K | Q3_K)
    }

    /// Whether [`Self::gemm_quant_mma`] works.
    pub fn has_gemm_quant_mma(self) -> bool {
        self.0 != GgmlType::F32
    }

    /// The product of a plan, on Hopper; x and its scales from `narrow_f16`.
    pub fn gemm_quant<D: Device>(
        self,
        device: &D,
        plan: Plan,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: (&DeviceSlice<f16>, &DeviceSlice<f32>),
        parts: &mut DeviceSlice<f32>,
    ) -> Result<(), D::Error> {
        match self.0 {
            GgmlType::Q4_0 => plan.launch::<quant::Q4_0, D>(device, y, w, x, parts),
            GgmlType::Q4_1 => plan.launch::<quant::Q4_1, D>(device, y, w, x, parts),
            GgmlType::Q5_0 => plan.launch::<quant::Q5_0, D>(device, y, w, x, parts),
            GgmlType::Q5_1 => plan.launch::<quant::Q5_1, D>(device, y, w, x, parts),
            GgmlType::Q8_0 => plan.launch::<quant::Q8_0, D>(device, y, w, x, parts),
            GgmlType::Q4_K => plan.launch::<quant::Q4_K, D>(device, y, w, x, parts),
            GgmlType::Q5_K => plan.launch::<quant::Q5_K, D>(device, y, w, x, parts),
            GgmlType::Q6_K => plan.launch::<quant::Q6_K, D>(device, y, w, x, parts),
            GgmlType::IQ4_NL => plan.launch::<quant::IQ4_NL, D>(device, y, w, x, parts),
            GgmlType::IQ4_XS => plan.launch::<quant::IQ4_XS, D>(device, y, w, x, parts),
            GgmlType::MXFP4 => plan.launch::<quant::MXFP4, D>(device, y, w, x, parts),
            other => panic!("no kernel of Hopper for {}", other.name()),
        }
    }

    /// The product on the tensor cores of any GPU; x and its scales from `narrow_f16`.
    pub fn gemm_quant_mma<D: Device>(
        self,
        device: &D,
        product: Product,
        y: &mut DeviceSlice<f32>,
        w: &DeviceSlice<u8>,
        x: (&DeviceSlice<f16>, &DeviceSlice<f32>),
    ) -> Result<(), D::Error> {
        match self.0 {
            GgmlType::F16 => product.launch::<quant::F16, D>(device, y, w, x),
            GgmlType::BF16 => product.launch::<quant::BF16, D>(device, y, w, x),
            GgmlType::Q2_K => product.launch::<quant::Q2_K, D>(device, y, w, x),
            GgmlType::Q3_K => product.launch::<quant::Q3_K, D>(device, y, w, x),
            GgmlType::Q4_0 => product.launch::<quant::Q4_0, D>(device, y, w, x),
            GgmlType::Q4_1 => product.launch::<quant::Q4_1, D>(device, y, w, x),
            GgmlType::Q5_0 => product.launch::<quant::Q5_0, D>(device, y, w, x),
            GgmlType::Q5_1 => product.launch::<quant::Q5_1, D>(device, y, w, x),
            GgmlType::Q8_0 => product.launch::<quant::Q8_0, D>(device, y, w, x),
            GgmlType::Q4_K => product.launch::<quant::Q4_K, D>(device, y, w, x),
            GgmlType::Q5_K => product.launch::<quant::Q5_K, D>(device, y, w, x),
            GgmlType::Q6_K => product.launch::<quant::Q6_K, D>(device, y, w, x),
            GgmlType::IQ4_NL => product.launch::<quant::IQ4_NL, D>(device, y, w, x),
            GgmlType::IQ4_XS => product.launch::<quant::IQ4_XS, D>(device, y, w, x),
            GgmlType::MXFP4 => product.launch::<quant::MXFP4, D>(device, y, w, x),
            other => panic!("no product on the tensor cores for {}", other.name()),
        }
    }
}

/// Vectors in the form that a GEMV takes.
#[derive(Clone, Copy, Debug)]
pub struct ConvertedX<'a> {
    order: XOrder,
    words: &'a DeviceSlice<u32>,
    numbers: &'a DeviceSlice<f32>,
    n_vectors: usize,
}

impl<'a> ConvertedX<'a> {
    /// Converts vectors; words and numbers as many as [`XOrder::len`] says.
    pub fn new<D: Device>(
        device: &D,
        order: XOrder,
        words: &'a mut DeviceSlice<u32>,
        numbers: &'a mut DeviceSlice<f32>,
        x: &DeviceSlice<f32>,
        [n_vectors, n_cols]: [usize; 2],
    ) -> Result<Self, D::Error> {
        let shape = [n_vectors, gemv_max_vectors(n_vectors), n_cols];
        gemv_x(device, order, &mut *words, &mut *numbers, x, shape)?;
        Ok(ConvertedX { order, words, numbers, n_vectors })
    }

    /// Vectors that were converted before.
    pub fn made(
        order: XOrder,
        words: &'a DeviceSlice<u32>,
        numbers: &'a DeviceSlice<f32>,
        n_vectors: usize,
    ) -> Self {
        ConvertedX { order, words, numbers, n_vectors }
    }
}

/// A run of stretches of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Stretches {
    /// Index of the first in the matrix.
    pub first: usize,
    /// How many, those past the matrix's last row included.
    pub n: usize,
}

/// A number as kernels take it.
///
/// # Panics
/// If it has more than 32 bits: no loader admits such a shape.
pub fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or_else(|_| panic!("{n} is too large a shape for a kernel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_agree_with_the_file_formats() {
        for ty in GgmlType::all() {
            let Some(format) = Format::new(ty) else { continue };
            let n_cols = 3 * ty.block_elements() as usize;
            assert_eq!(format.file_bytes([5, n_cols]) as u64, 15 * ty.block_bytes(), "{}", ty.name());
            // Whole tiles have no padding.
            let n_cols = 256;
            let whole = [16, n_cols];
            assert_eq!(format.matrix_bytes(whole), format.file_bytes(whole), "{}", ty.name());
            let padded = format.matrix_bytes([15, n_cols]) > format.file_bytes([15, n_cols]);
            assert_eq!(padded, !format.is_as_in_file(), "{}", ty.name());
        }
        assert_eq!(GgmlType::all().filter(|ty| Format::new(*ty).is_some()).count(), 16);
    }
}
