//! The specification of every op in f64, and the comparison with derived bounds.
//!
//! [`mod@reference`] says what an op computes, [`data`] makes inputs, [`compare`] says how far an implementation in
//! f32 may be from the reference, and why. [`sampling`] is the reference of the chain that chooses tokens.

pub mod compare;
pub mod data;
pub mod reference;
pub mod sampling;
