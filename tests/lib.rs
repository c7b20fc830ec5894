//! The specification of every op in f64, and the comparison with derived bounds.
